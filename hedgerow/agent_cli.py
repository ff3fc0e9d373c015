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
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(show_header=False, title=f"agent {found.device}")
    for name, value in msgspec.structs.asdict(found).items():
        table.add_row(name, ", ".join(value) if isinstance(value, tuple) else str(value))
    Console().print(table)
