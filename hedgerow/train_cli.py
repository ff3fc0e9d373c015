"""`hedgerow export-trainable`: a Keras model as one file that trains on a device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .errors import ModelFileError, UsageError
from .quiet import native_log

if TYPE_CHECKING:
    import keras

    from .models import TrainableInfo

app = typer.Typer()


@app.command("export-trainable")
def export(
    model: Annotated[Path, typer.Argument(help="A .keras file.")],
    out: Annotated[Path, typer.Argument(help="The .tflite to write.")],
    batch_size: Annotated[int, typer.Option(help="Rows of a batch; fixed in the file.", min=1)] = 16,
    loss: Annotated[str, typer.Option(help="As Keras names it.")] = "sparse_categorical_crossentropy",
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, nesterov, adam or adamw.")] = "sgd",
    momentum: Annotated[float | None, typer.Option(help="Of momentum and nesterov.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest global norm of the gradients.")] = None,
    proximal: Annotated[bool, typer.Option("--proximal", help="Take FedProx's proximal term.")] = False,
    trainable: Annotated[str, typer.Option(help="all, head, bias, or a pattern of weight paths.")] = "all",
    variant: Annotated[
        list[str] | None, typer.Option(help="A further signature, NAME=SELECTION; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Writes a .tflite that trains with TFLite's built-in operators only."""
    chosen = {"momentum": momentum, "global_clipnorm": clip, "proximal": proximal or None}
    hyperparameters = {name: value for name, value in chosen.items() if value is not None}
    variants = dict(_variant(text) for text in variant or ())
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"):
        with console.status("reading the model"):
            keras_model = load(model)
        with console.status("converting"):
            from .models import export_trainable

            info = export_trainable(
                keras_model,
                out,
                batch_size=batch_size,
                loss=loss,
                optimizer=optimizer,
                trainable=trainable,
                variants=variants,
                **hyperparameters,
            )
    if json:
        typer.echo(msgspec.json.encode(_fields(info)).decode())
    else:
        show(info)


def load(path: Path) -> keras.Model:
    """The Keras model in a `.keras` file.

    Raises:
        ModelFileError: There is none.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(f"Expected a Keras model in {path}, received: {reason}") from error


def show(info: TrainableInfo) -> None:
    """Prints what was written."""
    table = Table("signature", "trains")
    for name, paths in info.trained.items():
        table.add_row(name, f"{len(paths)} of {len(info.weights)} weights")
    console = Console()
    console.print(
        f"{info.path}: {info.size_bytes / 1e3:,.1f} kB, batches of {info.batch_size}", highlight=False
    )
    console.print(table)


def _fields(info: TrainableInfo) -> dict[str, object]:
    return {
        "path": str(info.path),
        "size_bytes": info.size_bytes,
        "batch_size": info.batch_size,
        "signatures": sorted(info.signatures),
        "weights": info.weights,
        "trained": info.trained,
    }


def _variant(text: str) -> tuple[str, str]:
    name, equals, selection = text.partition("=")
    if not (name.isidentifier() and equals and selection):
        raise UsageError(f"Expected --variant NAME=SELECTION, received {text!r}.")
    return name, selection
