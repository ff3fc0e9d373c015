"""`hedgerow split`: a data set dealt out to devices, as files that their agents read."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from .errors import DatasetError, OutputFolderError, UsageError
from .quiet import native_log

if TYPE_CHECKING:
    from .models.datasets import Dataset

app = typer.Typer()

_TEST_SHARE = 0.2
_RULES = ("dirichlet", "shards", "iid")


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """`split.json`.

    Attributes:
        by: The rule.
        labels: The name of each class.
        devices: For each device, how many examples of each class it has, those for testing included.
    """

    by: str
    labels: tuple[str, ...]
    devices: dict[str, tuple[int, ...]]


@app.command()
def split(
    data: Annotated[
        str,
        typer.Argument(
            help="An .npz with x and y, a .csv with a row per example and a column label, a folder with one "
            "folder of images or WAV files per class, or package.module:function."
        ),
    ],
    by: Annotated[
        str, typer.Option(help="dirichlet:ALPHA, shards:NUMBER, iid, or the name of a column or array.")
    ] = "dirichlet:0.5",
    devices: Annotated[int, typer.Option(help="How many; with a column, at most so many.", min=1)] = 8,
    out: Annotated[Path, typer.Option(help="A new or empty folder.")] = Path("split"),
    shape: Annotated[
        str | None, typer.Option(help="Of an image, a sound or a window, such as 28,28,1; for folders.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every choice.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print split.json on standard output.")] = False,
) -> None:
    """Deals a data set out to devices with Flower's partitioners.

    Each device gets a folder with train.npz and test.npz, as `samples` in agent.toml names it; samples.svg
    shows how many examples of each class each device has.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputFolderError(f"Expected an empty or new folder, received {out}.")
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"):
        from .models.datasets.partition import partition
        from .models.pictures import draw_shares

        column = None if by.split(":")[0] in _RULES else by
        examples, values = _read(data, column, shape)
        parts = partition(examples.y, by, devices, column=values, seed=seed)
        for name, indices in parts.items():
            _write(out / name, examples.take(indices), seed)
        counts = {name: tuple(map(int, examples.take(part).counts())) for name, part in parts.items()}
        report = SplitReport(by=by, labels=examples.labels, devices=counts)
        (out / "split.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
        draw_shares(counts, examples.labels, out / "samples.svg")
    if json:
        typer.echo((out / "split.json").read_text())
        return
    table = Table("device", "examples", "classes", "most frequent")
    for name, count in counts.items():
        most = examples.labels[int(np.argmax(count))]
        table.add_row(name, str(sum(count)), str(sum(number > 0 for number in count)), most)
    console = Console()
    console.print(table)
    console.print(f"{out}: a folder per device, split.json, samples.svg", highlight=False)


def _read(data: str, column: str | None, shape: str | None) -> tuple[Dataset, NDArray[Any] | None]:
    from .models.datasets import Dataset
    from .quantization.loading import read_examples

    path, values = Path(data), None
    if column is not None and path.suffix == ".csv":
        x, y, labels, values = _read_rows(path, column)
    else:
        x, y, labels = read_examples(data, _shape(shape, path))
        if column is not None:
            values = _array(path, column)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DatasetError(
            f"Expected a class for each example, received answers of shape {y.shape}, {y.dtype}."
        )
    if values is not None and values.shape != y.shape:
        raise DatasetError(
            f"Expected one {column} per example, received {values.shape} for {len(y)} examples."
        )
    names = labels or tuple(map(str, range(int(y.max()) + 1)))
    return Dataset(x.astype(np.float32), y.astype(np.int32), names), values


def _shape(text: str | None, path: Path) -> tuple[int, ...]:
    if text is None:
        if path.is_dir():
            raise UsageError("Expected --shape such as 28,28,1 for a folder of images, received none.")
        if path.suffix == ".csv":
            with path.open(newline="") as stream:
                return (len(next(csv.reader(stream), [""])) - 1,)
        return ()
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise UsageError(f"Expected --shape such as 28,28,1, received {text!r}.") from error


def _array(path: Path, name: str) -> NDArray[Any]:
    """The array of an .npz by which to split."""
    if path.suffix != ".npz":
        raise UsageError(
            f"Expected --by dirichlet:ALPHA, shards:NUMBER, iid, or a column of an .npz or .csv; received "
            f"{name!r} for {str(path)!r}."
        )
    with np.load(path, allow_pickle=False) as stored:
        if name not in stored:
            raise UsageError(f"Expected an array {name!r} in {path}, found {', '.join(stored.files)}.")
        values: NDArray[Any] = stored[name]
    return values


def _read_rows(path: Path, column: str) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...], NDArray[Any]]:
    """A table whose rows are examples: the features, the classes, their names, and the column."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    missing = {"label", column} - set(rows[0] if rows else ())
    if missing:
        raise UsageError(f"Expected rows with the columns label and {column} in {path}, missing: {missing}.")
    names, values = [row.pop("label") for row in rows], [row.pop(column) for row in rows]
    try:
        x = np.array([[float(value) for value in row.values()] for row in rows], np.float32)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"Expected numbers beside label and {column} in {path}: {error}.") from error
    labels = tuple(sorted(set(names)))
    return x, np.array([labels.index(name) for name in names]), labels, np.array(values)


def _write(folder: Path, examples: Dataset, seed: int) -> None:
    """A device's samples: four fifths to train on, one fifth to test on."""
    order = np.random.default_rng(seed).permutation(len(examples))
    held = max(1, round(_TEST_SHARE * len(order))) if len(order) > 1 else 0
    folder.mkdir(parents=True)
    for name, indices in (("train", np.sort(order[held:])), ("test", np.sort(order[:held]))):
        part = examples.take(indices)
        np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
