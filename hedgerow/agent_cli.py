"""`hedgerow agent`: the edge agent from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .edge.config import AgentConfig
from .edge.status import AgentStatus

app = typer.Typer(help="The agent on a device.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The agent.toml.")]


@app.command()
def run(config: Config) -> None:
    """Run the agent until it is told to stop; `python -m hedgerow.edge` does the same in less memory."""
    from .edge.__main__ import serve

    raise typer.Exit(serve(config))


@app.command()
def status(
    config: Config, json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Show what the agent's state folder says."""
    found = AgentStatus.read(AgentConfig.load(config))
    _show(found, f"agent {found.device}", json=json)


@app.command()
def releases(
    config: Config, json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Show which release serves on this device, which served before, and what was refused."""
    from .edge.release import ReleaseStore

    loaded = AgentConfig.load(config)
    _show(ReleaseStore.of_device(loaded).state(), f"releases on {loaded.device}", json=json)


def _show(found: msgspec.Struct, title: str, *, json: bool) -> None:
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(show_header=False, title=title)
    for name, value in msgspec.structs.asdict(found).items():
        match value:
            case tuple() | list():
                words = ", ".join(map(str, value))
            case dict():
                words = "\n".join(f"{key}: {reason}" for key, reason in value.items())
            case msgspec.Struct():
                words = str(getattr(value, "release", value))
            case _:
                words = "" if value is None else str(value)
        table.add_row(name, words)
    Console().print(table)
