"""`hedgerow convert`: from Keras to every chip."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .conversion_options import ConversionOptions
from .errors import GateError
from .hardware_view import verdict
from .quantization.converter_process import ConverterProcess
from .quiet import native_log

if TYPE_CHECKING:
    from .hardware.verification import Verification
    from .quantization import Release, Rung

app = typer.Typer(help="Convert a Keras model for a chip.")


@app.command()
def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="A .keras file, a SavedModel's folder, a float .tflite, package.module:function, "
            "or a name of the zoo."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="An .npz with x and y, a folder of images or WAV files by class, a .csv or .parquet with a "
            "column 'label', or package.module:function that returns (x, y)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that the release is built in.")],
    target: Annotated[list[str] | None, typer.Option(help="A target; give it several times.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Recipes to try in this order instead of the ladder: float32, float16, dynamic, int8, "
            "int8-ranges, mixed, int16x8, int8-tuned, int4."
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Largest drop of the metric, absolute.", min=0.0)] = 0.01,
    length: Annotated[
        int | None, typer.Option(help="Steps of a window of a table; by default the model's.", min=1)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the release; by default the model's.")] = None,
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH, higher than those in OUT.")] = "1.0.0",
    key: Annotated[Path | None, typer.Option(help="PEM file of the key that signs the manifest.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into calibration and test.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print report.json on standard output.")] = False,
) -> None:
    """Converts a model to a release whose accuracy is proved on held-out data.

    Full int8 is tried first. If the metric drops by more than --max-drop, the tool measures which
    layers cause it and climbs: better ranges, the worst layers in float, int16 activations, fine-tuning
    with int8's rounding, float16. It stops at the first that passes, and leaves with 36 and the whole
    table if none does.
    """
    options = ConversionOptions(
        model=model,
        data=data,
        out=out,
        targets=tuple(target or ()),
        recipes=tuple(recipe or ()),
        max_drop=max_drop,
        length=length,
        name=name,
        version=version,
        key=key,
        seed=seed,
    )
    _run(options, json=json)


def _run(options: ConversionOptions, *, json: bool) -> None:
    console = Console(stderr=json)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            native_log(Path(folder) / "native.log"),
            console.status("starting") as status,
            ConverterProcess() as process,
        ):
            from .conversion import run_conversion

            say = status.update if console.is_terminal else console.print
            result = run_conversion(options, on_stage=say, process=process)
    except GateError as error:
        rungs: tuple[Rung, ...] = error.facts["rungs"]  # type: ignore[assignment]
        if json:
            _echo({"rungs": rungs})
        else:
            console.print(_ladder(rungs))
        raise
    if json:
        _echo(result.report)
        return
    console.print(_ladder(result.rungs))
    console.print(_release(result.release, result.verifications))
    for report in result.fitness:
        console.print(verdict(report), highlight=False)
    for target in result.report.targets:
        if target.cpu_operators:
            left = ", ".join(target.cpu_operators)
            console.print(f"{target.target}: its accelerator leaves to the CPU: {left}", highlight=False)
    console.print(f"[bold]{result.release.folder}[/bold]", soft_wrap=True)


def _echo(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _ladder(rungs: tuple[Rung, ...]) -> Table:
    table = Table("recipe", "metric", "model", "file", "drop", "bytes", "", title="accuracy on held-out data")
    for rung in rungs:
        if rung.value is None or rung.drop is None:
            table.add_row(rung.recipe, "", "", "", "", "", rung.reason, style="yellow")
            continue
        numbers = (f"{rung.reference:.4f}", f"{rung.value:.4f}", f"{rung.drop:+.4f}", f"{rung.size_bytes:,}")
        verdict = "passed" if rung.passed else "dropped too much"
        words = f"{verdict}: {rung.note}" if rung.note else verdict
        table.add_row(rung.recipe, rung.metric, *numbers, words, style="" if rung.passed else "yellow")
    return table


def _release(release: Release, verifications: dict[str, tuple[Verification, ...]]) -> Table:
    table = Table("file", "kind", "bytes", "verified", title=release.manifest.release)
    for file in release.manifest.files:
        verified = [
            f"{one.runtime} {'ok' if one.passed else 'DIFFERS'}"
            + (f" ({one.steps:.0f} LSB)" if one.steps is not None else f" ({one.difference:.1e})")
            for one in verifications.get(file.name, ())
        ]
        table.add_row(file.name, file.kind, f"{file.size:,}", ", ".join(verified))
    return table
