"""`hedgerow zoo`: which systems there are, and the proof that each goes the whole way."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .errors import UsageError, ZooError
from .onednn import use_onednn
from .quiet import native_log
from .zoo_page import read
from .zoo_pool import longest_first, verify_all
from .zoo_row import Verified
from .zoo_view import VerifyView

PAGE = Path("docs/zoo.md")

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
        Path | None,
        typer.Option(
            help="The page to write, with its numbers in a .json beside it; docs/zoo.md where there is one,"
            " unless --quick."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows of --out that were made with the same options.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the rows on standard output.")] = False,
) -> None:
    """Takes systems the whole way and measures each stage; leaves with an error if one fails.

    Central training against a baseline, int8 and its drop, Ethos-U cycles, the training step on a device
    runtime and its parity with Keras, federated rounds against central training and against all data in one
    place. Every row is in --out as soon as it is made; rows of other systems there are kept.
    """
    if out is None and not quick and PAGE.exists():
        out = PAGE
    if resume and out is None:
        raise UsageError("Expected --out with --resume, received --resume alone.")
    use_onednn()
    options = {"seeds": (0,) if quick else tuple(range(seeds)), "quick": quick}
    with tempfile.TemporaryDirectory(prefix="hedgerow-") as name, native_log(Path(name) / "log"):
        from .models import zoo

        for wanted in names or ():
            zoo.get(wanted)
        folder = Path(name)
        (folder / "options.json").write_bytes(msgspec.json.encode(options))
        known = read(out.with_suffix(".json")) if out else Verified()
        chosen = tuple(names or zoo.names())
        kept = [
            row
            for row in known.rows
            if resume
            and row.name in chosen
            and not row.failure
            and (row.quick, row.seeds) == (quick, options["seeds"])
        ]
        missing = [one for one in chosen if one not in {row.name for row in kept}]
        side_by_side = min(jobs or os.cpu_count() or 1, max(1, len(missing)))
        with VerifyView(
            known, zoo.names(), jobs=side_by_side, out=out, kept=len(kept), wanted=len(chosen)
        ) as view:
            verify_all(
                longest_first(missing, known.rows),
                folder / "options.json",
                folder,
                jobs=side_by_side,
                on_stage=view.stage,
                on_row=view.row,
            )
    rows = [row for row in view.verified.rows if row.name in chosen]
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    if failed := [row for row in rows if row.failure]:
        raise ZooError(
            f"Expected all systems to go the whole way, {', '.join(row.name for row in failed)} did not: "
            f"{failed[0].failure}"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
