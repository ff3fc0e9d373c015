"""`hedgerow convert`, `targets`, `check`, `inspect` and `bench`: from Keras to every chip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .hardware import benchmark as benchmarks
from .hardware import fitness, machine, targets
from .hardware.graph import read_graphs
from .hardware.inspection import inspect_file

if TYPE_CHECKING:
    from .hardware.verification import Verification
    from .quantization import Release, Rung

app = typer.Typer(help="Convert a Keras model for a chip, and look at what came out.")


@app.command()
def convert(
    model: Annotated[
        str, typer.Argument(help="A .keras file, package.module:function, or a name of the zoo.")
    ],
    data: Annotated[
        str, typer.Option(help="An .npz, a folder of images by class, or package.module:function.")
    ],
    out: Annotated[Path, typer.Option(help="Folder that the release is built in.")],
    target: Annotated[list[str] | None, typer.Option(help="A target; give it several times.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Recipes to use instead of the ladder.")] = None,
    max_drop: Annotated[float, typer.Option(help="Largest drop of the metric, absolute.", min=0.0)] = 0.01,
    name: Annotated[str | None, typer.Option(help="Name of the release; by default the model's.")] = None,
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH, higher than those in OUT.")] = "1.0.0",
    key: Annotated[Path | None, typer.Option(help="PEM file of the key that signs the manifest.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into calibration and test.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print report.json on standard output.")] = False,
) -> None:
    """Converts a model to a release whose accuracy is proved on held-out data."""
    from .conversion import ConversionOptions, run_conversion

    console = Console(stderr=json)
    options = ConversionOptions(
        model=model,
        data=data,
        out=out,
        targets=tuple(target or ()),
        recipes=tuple(recipe or ()),
        max_drop=max_drop,
        name=name,
        version=version,
        key=key,
        seed=seed,
    )
    with console.status("loading the model and the data") as status:
        result = run_conversion(options, on_stage=status.update)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(result.report), indent=2).decode())
        return
    console.print(_ladder(result.rungs))
    console.print(_release(result.release, result.verifications))
    for report in result.fitness:
        console.print(_verdict(report), highlight=False)
    console.print(f"[bold]{result.release.folder}[/bold]", soft_wrap=True)


@app.command(name="targets")
def list_targets(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists what a model can be converted for."""
    found = [targets.load(name) for name in targets.names()]
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    table = Table("target", "what it is", "files", "compiler or delegate")
    for target in found:
        accelerator = target.accelerator
        compiler = "" if accelerator is None else accelerator.compiler or "delegate"
        table.add_row(target.name, target.title, ", ".join(target.kinds), compiler)
    Console().print(table)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A .tflite file.")],
    target: Annotated[str, typer.Option(help="The target.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Shows where each operator runs on a target; leaves with 0 only if the model runs there as asked."""
    found = fitness.check(file, targets.load(target))
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        table = Table("#", "operator", "runs on", "why")
        for placement in found.placements:
            row = (str(placement.operator.index), placement.operator.name, placement.where, placement.reason)
            table.add_row(*row, style="yellow" if placement.reason else "")
        console = Console()
        console.print(table)
        console.print(_verdict(found), highlight=False)
    if not found.runs_as_asked:
        raise typer.Exit(1)


@app.command(name="inspect")
def inspect_model(
    file: Annotated[Path, typer.Argument(help="Any .tflite file.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Shows what is in a model file: signatures, operators, types, memory and arithmetic."""
    graphs = read_graphs(file)
    costs = inspect_file(file)
    if json:
        typer.echo(
            msgspec.json.format(msgspec.json.encode({"graphs": graphs, "costs": costs}), indent=2).decode()
        )
        return
    console = Console()
    console.print(
        f"{file.name}: {graphs.size_bytes:,} bytes, {graphs.constant_bytes:,} of constants, "
        f"{len(graphs.graphs)} graphs. {graphs.description}",
        highlight=False,
    )
    table = Table("signature", "inputs", "outputs", "operators", "peak KiB", "MFLOP")
    for name, cost in costs.signatures.items():
        graph = graphs.graphs[graphs.signatures.get(name, 0)]
        sides = [
            "\n".join(map(_tensor, (graph.tensors[i] for i in side)))
            for side in (graph.inputs, graph.outputs)
        ]
        operators = ", ".join(f"{count} {operator}" for operator, count in cost.operators.items())
        table.add_row(
            name or "-", *sides, operators, f"{cost.peak_bytes / 1024:.1f}", f"{cost.flops / 1e6:.3f}"
        )
    console.print(table)


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help=".tflite files, compared side by side.")],
    runtime: Annotated[
        list[str] | None, typer.Option(help="tflite, litert; by default all installed.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the kernels.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Runs to measure.", min=1)] = 50,
    warm_up: Annotated[int, typer.Option(help="Runs before them.", min=0)] = 5,
    inputs: Annotated[Path | None, typer.Option(help="An .npz with one array per input.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measures latency, throughput and memory of files on each runtime of this machine."""
    installed = {"tflite-runtime": "tflite", "ai-edge-litert": "litert"}
    chosen = runtime or [short for name, short in installed.items() if name in machine.probe().runtimes]
    console = Console(stderr=json)
    results = []
    with console.status("measuring") as status:
        for file in files:
            for one in chosen:
                status.update(f"measuring {file.name} on {one}")
                results.append(
                    benchmarks.benchmark(
                        file, runtime=one, num_threads=threads, runs=runs, warm_up=warm_up, inputs=inputs
                    )
                )
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(results), indent=2).decode())
        return
    table = Table("file", "bytes", "runtime", "p50 ms", "p90 ms", "p99 ms", "runs/s", "peak MiB", "load ms")
    for found in results:
        latencies = (f"{value:.3f}" for value in (found.p50_ms, found.p90_ms, found.p99_ms))
        rest = (f"{found.per_second:.0f}", f"{found.peak_mib:.1f}", f"{found.load_ms:.1f}")
        table.add_row(found.file, f"{found.size_bytes:,}", found.runtime, *latencies, *rest)
    console.print(table)


def _tensor(tensor: object) -> str:
    return f"{getattr(tensor, 'dtype', '')}{list(getattr(tensor, 'shape', ()))}"


def _ladder(rungs: tuple[Rung, ...]) -> Table:
    table = Table("recipe", "metric", "Keras", "file", "drop", "bytes", "", title="accuracy on held-out data")
    for rung in rungs:
        if rung.value is None or rung.drop is None:
            table.add_row(rung.recipe, "", "", "", "", "", rung.reason, style="yellow")
            continue
        numbers = (f"{rung.reference:.4f}", f"{rung.value:.4f}", f"{rung.drop:+.4f}", f"{rung.size_bytes:,}")
        table.add_row(rung.recipe, rung.metric, *numbers, "passed" if rung.passed else "dropped too much")
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


def _verdict(found: fitness.Fitness) -> str:
    fallback = found.first_fallback
    memory = f"weights {found.weights_kib:.1f} KiB, activations {found.activations_kib:.1f} KiB"
    share = f"{found.accelerated_percent:.1f} % of the operators where they should be"
    start = f"{found.target.name}: {share}, {memory}"
    if found.compiled is not None:
        start += f", {found.compiled.cycles:,} cycles, {found.compiled.inference_ms:.2f} ms"
    if found.runs_as_asked:
        return f"[green]{start}. It runs as asked.[/green]"
    what = "" if fallback is None else f" First: {fallback.operator.name}, because {fallback.reason}."
    return f"[yellow]{start}.{what} {found.advice}[/yellow]"
