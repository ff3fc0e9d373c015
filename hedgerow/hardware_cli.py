"""`hedgerow targets`, `check`, `inspect` and `bench`: what a chip can run, and what a file needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from . import hardware_view as view
from .hardware import benchmark as benchmarks
from .hardware import execution, fitness, targets
from .hardware.benchmark import Benchmark, Failure
from .hardware.graph import read_graphs
from .hardware.inspection import inspect_graphs

app = typer.Typer(help="Look at chips and at model files.")

TARGET_HELP = "A name that `hedgerow targets` lists, or the path of a .toml of your own."


@app.command(name="targets")
def list_targets(
    name: Annotated[str | None, typer.Argument(help="One of them, or a .toml file, in full.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists what a model can be converted for, or shows one target in full."""
    found = [targets.load(one) for one in ([name] if name else targets.names())]
    if json:
        _print_json(found if name is None else found[0])
        return
    console = Console()
    if name is not None:
        view.show_target(found[0], console)
        return
    view.show_targets(found, console)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A .tflite file.")],
    target: Annotated[list[str], typer.Option(help=f"{TARGET_HELP} Give it several times.")],
    rules: Annotated[
        bool, typer.Option("--rules", help="By the target's rules alone: start no compiler and no runtime.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Shows where each operator runs on a target; leaves with 0 only if the model runs there as asked.

    A target's compiler is asked where it is installed; on TFLite Micro and xcore the file is run, its arena
    measured, and its numbers compared with the reference kernels.
    """
    chosen = [targets.load(name) for name in target]
    console = Console(stderr=json)
    found = []
    for one in chosen:
        with console.status(f"checking {file.name} for {one.name}"):
            found.append(fitness.check(file, one, run=not rules))
        if not json:
            view.show_fitness(found[-1], console)
    if json:
        summaries = [fitness.summary(one) for one in found]
        _print_json(summaries if len(summaries) > 1 else summaries[0])
    if not all(one.runs_as_asked for one in found):
        raise typer.Exit(1)


@app.command(name="inspect")
def inspect_model(
    file: Annotated[Path, typer.Argument(help="Any .tflite file.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Shows what is in a model file: signatures, operators, types, memory and arithmetic."""
    model = read_graphs(file)
    costs = inspect_graphs(model)
    if json:
        _print_json({"file": file.name, "graphs": model, "costs": costs})
        return
    console = Console()
    graphs = f"{len(model.graphs)} graph{'s' if len(model.graphs) > 1 else ''}"
    console.print(
        f"[bold]{file.name}[/bold]: {model.size_bytes:,} bytes, {model.constant_bytes:,} of constants, "
        f"{graphs}",
        highlight=False,
        soft_wrap=True,
    )
    for name in costs.signatures:
        view.show_signature(name, model, costs, console)


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help=".tflite files, compared side by side.")],
    runtime: Annotated[
        list[str] | None, typer.Option(help="tflite, litert; by default all installed.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the kernels.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Runs to measure.", min=1)] = 50,
    warm_up: Annotated[int, typer.Option(help="Runs before them.", min=0)] = 5,
    data: Annotated[
        Path | None, typer.Option(help="An .npz with one array per input, [N,...]; random without.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measures latency, throughput and memory of files on each runtime of this machine.

    Each file on each runtime has a process of its own. Leaves with 1 if one could not be measured.
    """
    for file in files:
        read_graphs(file)
    chosen = tuple(runtime or [one for one in execution.installed() if one in benchmarks.RUNTIMES])
    console = Console(stderr=json)
    results: list[Benchmark | Failure] = []
    with console.status("measuring") as status:
        for file in files:
            for one in chosen:
                status.update(f"measuring {file.name} on {one}")
                options = {"num_threads": threads, "runs": runs, "warm_up": warm_up}
                results.append(benchmarks.attempt(file, runtime=one, data=data, **options))
    if json:
        _print_json(results)
    else:
        view.show_benchmarks(results, threads=threads, console=console)
    if any(isinstance(found, Failure) for found in results):
        raise typer.Exit(1)


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
