"""`hedgerow flower`: stock Flower apps over any MQTT broker."""

from __future__ import annotations

import logging
import re
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="Run stock Flower apps over any MQTT broker.", no_args_is_help=True)

App = Annotated[Path, typer.Argument(help="The app's folder, with its pyproject.toml.")]
Url = Annotated[str, typer.Option("--broker", help="mqtt://[user:password@]host[:port], or mqtts://...")]
Fleet = Annotated[str, typer.Option(help="The devices' fleet; by default the app's name.")]
NodeConfig = Annotated[
    str, typer.Option("--node-config", help="What is this device's alone: 'partition-id=0 num-partitions=8'.")
]


@app.command()
def run(
    folder: App,
    broker: Url,
    fleet: Fleet = "",
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="'key=value ...' or a TOML file, in place of the app's."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--folder", help="For the run's journal; by default hedgerow-flower/<fleet>."),
    ] = None,
    uploads: Annotated[int, typer.Option(help="How many devices may upload at once.", min=1)] = 8,
    offline_seconds: Annotated[
        float, typer.Option(help="A device that is offline for so long counts as failed.", min=0.1)
    ] = 60.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget a run that was stopped.")] = False,
) -> None:
    """Runs the app's ServerApp on the fleet; a run that was stopped or killed goes on where it was.

    Devices run `hedgerow flower agent`, or `hedgerow agent run --flower-app`. A run that has ended leaves
    nothing behind: what the app is to keep, the app writes.
    """
    from .coordinator.flower import Project
    from .coordinator.flower_run import FlowerRun, FlowerRunConfig, FlowerStopped

    # Flower writes its own lines; ours are in between.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("hedgerow").addHandler(handler)
    project = Project.read(folder, run_config)
    fleet = fleet or fleet_of(project.name)
    config = FlowerRunConfig(
        broker=broker,
        fleet=fleet,
        folder=state or Path("hedgerow-flower") / fleet,
        uploads=uploads,
        offline_seconds=offline_seconds,
    )
    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        # A second signal must not interrupt what the first has begun to clear away.
        if not stopping:
            stopping.append(number)
            raise FlowerStopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        FlowerRun(project, config, listener=lambda event: None).run(fresh=fresh)
    except FlowerStopped:
        Console(stderr=True).print(f"stopped; the same command goes on here ({config.folder})")


@app.command()
def agent(
    folder: App,
    broker: Url,
    device: Annotated[str, typer.Option(help="This device's id: a-z, 0-9 and '-', at most 48.")],
    fleet: Fleet = "",
    node_config: NodeConfig = "",
    state: Annotated[
        Path | None,
        typer.Option("--folder", help="For what the device must not forget; by default hedgerow-<device>."),
    ] = None,
) -> None:
    """Answers for the app's ClientApp on this device, until it is told to stop."""
    from .edge.__main__ import run_agent
    from .edge.config import AgentConfig
    from .flower_agent import app_name, make_agent, parse_node_config

    own = (state or Path(f"hedgerow-{device}")).absolute()
    config = AgentConfig(
        device=device,
        fleet=fleet or fleet_of(app_name(folder)),
        broker=broker,
        folder=str(own),
        samples=str(own / "samples"),
    )
    values = parse_node_config(node_config)
    raise typer.Exit(run_agent(config, lambda config: make_agent(config, folder, values)))


def fleet_of(app_name: str) -> str:
    """The fleet of an app "publisher/name", if nobody says another."""
    name = app_name.rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9-]+", "-", name)[:48].strip("-") or "flower"
