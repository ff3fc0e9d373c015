"""The command `hedgerow`. Each program has a file of its own; nothing heavy is imported here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import (
    __version__,
    agent_cli,
    convert_cli,
    coordinator_cli,
    doctor_cli,
    flower_cli,
    hardware_cli,
    release_cli,
    split_cli,
    train_cli,
    zoo_cli,
)
from .errors import HedgerowError

app = typer.Typer(
    name="hedgerow",
    help="Train a Keras model centrally, convert it to TFLite, refine it on the devices in federated rounds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(coordinator_cli.app, name="coordinator")
app.add_typer(agent_cli.app, name="agent")
app.add_typer(flower_cli.app, name="flower")
app.add_typer(release_cli.app, name="release")
app.command()(doctor_cli.doctor)
app.add_typer(train_cli.app)
app.add_typer(zoo_cli.app, name="zoo")
app.add_typer(split_cli.app)
app.add_typer(convert_cli.app)
app.add_typer(hardware_cli.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Any of `hedgerow zoo`.")] = "digits-convnet",
    devices: Annotated[
        int | None, typer.Option(help="How many; by default the model's number.", min=1)
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs on the device in each round.", min=1)] = None,
    strategy: Annotated[str, typer.Option(help="A class of flwr.serverapp.strategy.")] = "FedAvg",
    alpha: Annotated[
        float | None, typer.Option(help="Dirichlet concentration of the split.", min=0.01)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the first weights and the sampling.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="A new or empty folder for what it makes.")] = Path(
        "hedgerow-demo"
    ),
    broker: Annotated[str | None, typer.Option(help="mqtt://host:port; embedded by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Of the embedded broker; by default free.", min=1)] = None,
    runtime: Annotated[str, typer.Option(help="Of the agents: tflite, litert, or auto.")] = "auto",
    round_seconds: Annotated[float, typer.Option(help="A round closes after so long.", min=1.0)] = 120.0,
    json: Annotated[bool, typer.Option("--json", help="Print report.json on standard output.")] = False,
) -> None:
    """Trains, quantizes and refines a model on a fleet of devices on this machine, in a few minutes."""
    from .demo import DemoOptions, run_demo

    options = DemoOptions(
        model=model,
        devices=devices,
        rounds=rounds,
        epochs=epochs,
        strategy=strategy,
        alpha=alpha,
        seed=seed,
        out=out,
        broker=broker,
        port=port,
        runtime=runtime,
        round_seconds=round_seconds,
    )
    report = run_demo(options, console=Console(stderr=json))
    if json:
        typer.echo(report.decode())


def main() -> None:
    """Runs the command; an error that we foresaw is one line and an exit code of its own."""
    from .processes import Interrupted

    try:
        app()
    except HedgerowError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except Interrupted as interrupted:
        Console(stderr=True).print("stopped.")
        sys.exit(128 + interrupted.number)
    except KeyboardInterrupt:
        sys.exit(130)
