"""`hedgerow coordinator`: the daemon and what it knows."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from .coordinator.status import Status

app = typer.Typer(help="Run federated rounds over a fleet.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The coordinator's TOML file.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log lines as JSON objects.")]
Watch = Annotated[bool, typer.Option("--watch", help="Shows it again every second, until Ctrl-C.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]


@app.command()
def run(config: Config = Path("hedgerow.toml"), json: Json = False, log_json: LogJson = False) -> None:
    """Runs all rounds; started again after a stop or a crash it goes on where it was."""
    from .coordinator.config import CoordinatorConfig
    from .coordinator.daemon import Coordinator, Stopped
    from .coordinator.events import Event, to_line
    from .coordinator.logs import JsonFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if log_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopping.append(received))
    console = Console()

    def tell(event: Event) -> None:
        if json:
            sys.stdout.buffer.write(to_line(event))
            sys.stdout.buffer.flush()
        else:
            show(event, console)

    settings = CoordinatorConfig.load(config)
    with Coordinator(settings, listener=tell, stopping=lambda: bool(stopping)) as coordinator:
        try:
            coordinator.run()
        except Stopped:
            logging.getLogger(__name__).info("stopped; started again it goes on here")


def show(event: object, console: Console) -> None:
    """Prints what a person wants to see of an event."""
    from .coordinator import events

    match event:
        case events.Started(epoch=epoch, round=round_, rounds=rounds):
            console.print(f"epoch {epoch}: round {round_} of {rounds}")
        case events.DevicesOnline(online=online, wanted=wanted):
            console.print(f"{online} of {wanted} devices online")
        case events.PhaseOpened(round=round_, phase=phase, devices=devices):
            console.print(f"round {round_}: {phase} on {len(devices)} devices")
        case events.UpdateRefused(device=device, reason=reason):
            console.print(f"  refused {device}: {reason}")
        case events.RoundEnded(record=record):
            console.print(
                f"round {record.round}: {record.devices} devices, {record.seconds:.1f} s, accuracy"
                f" {number(record.device_accuracy)} on devices, {number(record.held_out_accuracy)} held out"
            )
            if record.failure:
                console.print(
                    f"  the model stays as it was: {record.failure}", style="yellow", highlight=False
                )
        case events.Finished(weights=weights):
            console.print(f"finished: {weights}")


def number(value: float | None) -> str:
    """A share as people read it, or a dash."""
    return "-" if value is None else f"{value:.3f}"


@app.command()
def rounds(config: Config = Path("hedgerow.toml"), json: Json = False) -> None:
    """Shows the rounds that are over."""
    from .coordinator.config import CoordinatorConfig
    from .coordinator.journal import Journal

    journal = Journal(CoordinatorConfig.load(config).folder)
    records = journal.rounds()
    journal.close()
    if json:
        for record in records:
            typer.echo(msgspec.json.encode(record).decode())
        return
    table = Table("round", "devices", "loss", "accuracy", "held out", "seconds", "MB down", "MB up")
    for record in records:
        table.add_row(
            str(record.round),
            str(record.devices),
            number(record.device_loss),
            number(record.device_accuracy),
            number(record.held_out_accuracy),
            f"{record.seconds:.1f}",
            f"{record.bytes_down / 1e6:.2f}",
            f"{record.bytes_up / 1e6:.2f}",
        )
    Console().print(table)


@app.command()
def status(config: Config = Path("hedgerow.toml"), json: Json = False, watch: Watch = False) -> None:
    """Shows what the coordinator is doing; with --watch, as it goes."""
    from .coordinator.config import CoordinatorConfig
    from .coordinator.status import read_status

    folder = CoordinatorConfig.load(config).folder
    if json:
        typer.echo(msgspec.json.encode(read_status(folder)).decode())
        return
    with Live(console=Console(), auto_refresh=False) as live:
        live.update(_status_table(read_status(folder)), refresh=True)
        while watch:
            time.sleep(1.0)
            live.update(_status_table(read_status(folder)), refresh=True)


def _status_table(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("coordinator", f"process {status.pid}" if status.running else "not running")
    table.add_row(
        "round", f"{status.round} of {status.rounds}" + (f", {status.phase}" if status.phase else "")
    )
    if status.phase:
        refused = f", {status.refused} refused or failed" if status.refused else ""
        table.add_row("updates", f"{status.counted} of {status.asked}{refused}")
    online = sum(device.online for device in status.devices)
    table.add_row("devices", f"{online} online of {len(status.devices)}")
    return table


@app.command()
def devices(
    config: Config = Path("hedgerow.toml"),
    json: Json = False,
    round_: Annotated[
        int | None, typer.Option("--round", min=1, help="Updates, bytes and seconds of this round alone.")
    ] = None,
) -> None:
    """Shows every device that the coordinator has heard of, and what it has sent."""
    from .coordinator.config import CoordinatorConfig
    from .coordinator.status import read_status

    listed = read_status(CoordinatorConfig.load(config).folder, round_=round_).devices
    if json:
        for device in listed:
            typer.echo(msgspec.json.encode(device).decode())
        return
    table = Table("device", "", "runtime", "samples", "updates", "last round", "MB up", "seconds")
    for device in listed:
        table.add_row(
            device.device,
            "online" if device.online else "offline",
            device.runtime,
            str(device.examples),
            str(device.updates),
            str(device.last_round or "-"),
            f"{device.bytes_up / 1e6:.2f}",
            f"{device.seconds:.1f}",
        )
    Console().print(table)
