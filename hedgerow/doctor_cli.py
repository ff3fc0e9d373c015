"""`hedgerow doctor`: what a broker can carry, and what we do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import msgspec
import typer
from rich.console import Console

COLOURS = {"good": "green", "limit": "yellow", "bad": "red"}


def doctor(
    broker: Annotated[str, typer.Option(help="mqtt://[user:password@]host[:port], or mqtts://...")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")] = False,
) -> None:
    """Tries a broker; leaves with 1 if rounds cannot run over it."""
    from .protocol.link import Broker
    from .protocol.probe import Probe

    console, worst = Console(), "good"
    for finding in Probe(Broker.from_url(broker)).findings():
        if finding.level == "bad":
            worst = "bad"
        if json:
            typer.echo(msgspec.json.encode(asdict(finding)).decode())
            continue
        colour = COLOURS[finding.level]
        advice = f"  {finding.advice}" if finding.advice else ""
        console.print(
            f"[{colour}]{finding.level:5}[/] {finding.name}: {finding.found}{advice}", highlight=False
        )
    raise typer.Exit(int(worst == "bad"))
