"""`hedgerow zoo`: which systems there are, and the proof that each goes the whole way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .errors import ZooError
from .quiet import native_log
from .zoo_row import Row

app = typer.Typer(help="The zoo: small Keras models with real data, from central training to devices.")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What `hedgerow zoo --json` says about a system.

    Attributes:
        name: What `hedgerow train` and `hedgerow demo --model` call it.
        title: What it does.
        data: On which data.
        parameters: How many weights it has.
        measure: What its field counts.
        needs: The packages that bring its data.
        missing: Those of them that are not installed.
    """

    name: str
    title: str
    data: str
    parameters: int
    measure: str
    needs: tuple[str, ...]
    missing: tuple[str, ...]


@app.callback(invoke_without_command=True)
def list_systems(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists the systems; `hedgerow zoo verify` takes them the whole way."""
    if context.invoked_subcommand is not None:
        return
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"):
        from .models import zoo

        found = []
        for name in zoo.names():
            entry = zoo.get(name)
            found.append(
                Listed(
                    name=name,
                    title=entry.title,
                    data=entry.data,
                    parameters=entry.build().count_params(),
                    measure=entry.measure.name,
                    needs=entry.needs,
                    missing=tuple(package for package in entry.needs if not _is_installed(package)),
                )
            )
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("what it does")
    table.add_column("data")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("needs", no_wrap=True)
    for one in found:
        needs = ", ".join(f"{need} (missing)" if need in one.missing else need for need in one.needs)
        table.add_row(one.name, one.title, one.data, f"{one.parameters:,}", needs)
    Console().print(table)
    if any(one.missing for one in found):
        typer.echo("Install what is missing with: pip install 'hedgerow[zoo]'")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Systems; by default all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few examples and one round: that each runs, not how well.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.", min=1)] = 3,
    jobs: Annotated[
        int | None, typer.Option(help="How many at a time; by default one per processor.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write, with zoo.json beside it; rows of others are kept.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows on standard output.")] = False,
) -> None:
    """Takes systems the whole way and measures each stage; leaves with an error if one fails.

    Central training against a baseline, int8 and its drop, Ethos-U cycles, the training step on a device
    runtime and its parity with Keras, federated rounds against central training and against all data in one
    place.
    """
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder, native_log(Path(folder) / "log"):
        from .models import zoo

        for name in names or ():
            zoo.get(name)
        chosen, order = tuple(names or zoo.names()), zoo.names()
        options = Path(folder) / "options.json"
        options.write_bytes(
            msgspec.json.encode({"seeds": (0,) if quick else tuple(range(seeds)), "quick": quick})
        )
        rows = []
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            for row in pool.map(lambda name: _verify_in_process(name, Path(folder)), chosen):
                rows.append(row)
                console.print(_line(row), highlight=False, soft_wrap=True)
    if out is not None:
        from .zoo_page import merge, render

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render(merge(out.with_suffix(".json"), rows, order)))
        console.print(f"[bold]{out}[/bold]")
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    if failed := [row for row in rows if row.failure]:
        raise ZooError(
            f"Expected all systems to go the whole way, {', '.join(row.name for row in failed)} did not: "
            f"{failed[0].failure}"
        )


def _verify_in_process(name: str, folder: Path) -> Row:
    out, log = folder / f"{name}.json", folder / f"{name}.log"
    module = "hedgerow.zoo_verification"
    command = [sys.executable, "-m", module, name, str(folder / "options.json"), str(out)]
    # Several systems at a time, each on one processor; and sums in one order, so that a run can be repeated.
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with log.open("wb") as stream:
        done = subprocess.run(
            command, stdout=stream, stderr=stream, env=os.environ | threads | quiet, check=False
        )
    if done.returncode == 0 and out.is_file():
        return msgspec.json.decode(out.read_bytes(), type=Row)
    words = log.read_text(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
    return Row(name=name, title="", data="", failure=words[-1][:500])


def _line(row: Row) -> str:
    if row.failure:
        return f"[red]✗ {row.name}: {row.failure}[/red]"
    from .zoo_page import show

    federated = f"{show(row, row.central)} -> {show(row, row.federated)} after {row.rounds} rounds"
    int8 = f"int8 {show(row, (row.int8.value,))}" if row.int8 else f"no int8: {row.not_int8}"
    return (
        f"[green]✓[/green] {row.name}: {row.measure} {federated}, {int8}, step {row.step_ms:.1f} ms, "
        f"parity {row.parity:.0e} ({row.seconds:.0f} s)"
    )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
