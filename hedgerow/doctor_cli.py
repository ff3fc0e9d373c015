"""`hedgerow doctor`: what a broker can carry, and what we do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from .errors import UsageError

COLOURS = {"good": "green", "limit": "yellow", "bad": "red"}


def doctor(
    broker: Annotated[str, typer.Option(help="mqtt://[user:password@]host[:port], or mqtts://...")],
    as_device: Annotated[
        str, typer.Option(help="The same with a device's account: looks for holes in the access rules.")
    ] = "",
    fleet: Annotated[str, typer.Option(help="With --as-device: the fleet that the rules are for.")] = "",
    device: Annotated[
        str, typer.Option(help="With --as-device: the id of that device, which must not run meanwhile.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")] = False,
) -> None:
    """Tries a broker; leaves with 1 if rounds cannot run over it, or a device may do what it should not.

    Where there are access rules, give --as-device, --fleet and --device: `--broker` is then the coordinator's
    account, and what the rules allow each of the two is tried on the fleet's own topics.
    """
    from .protocol.access import AccessProbe
    from .protocol.link import Broker
    from .protocol.probe import Probe

    console, worst, address = Console(), "good", Broker.from_url(broker)
    if as_device or fleet or device:
        if not (as_device and fleet and device):
            raise UsageError("Expected --as-device, --fleet and --device together, received some of them.")
        account = Broker.from_url(as_device)
        findings = AccessProbe(address, as_device=account, fleet=fleet, device=device).findings()
    else:
        findings = Probe(address).findings()
    for finding in findings:
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
