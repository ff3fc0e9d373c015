"""`hedgerow agent`: the edge agent from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from .edge import service as services
from .edge.config import AgentConfig
from .edge.status import AgentStatus
from .errors import AgentNotRunningError, SamplesError, ServiceError

app = typer.Typer(help="The agent on a device.", no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", help="The agent.toml.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command()
def run(config: Config) -> None:
    """Run the agent until it is told to stop; `python -m hedgerow.edge` does the same in less memory."""
    from .edge.__main__ import serve

    raise typer.Exit(serve(config))


@app.command()
def status(config: Config, json: Json = False) -> None:
    """Show what the agent's state folder says: connection, release, samples, tasks, what it waits for."""
    found = AgentStatus.read(AgentConfig.load(config))
    _show(msgspec.structs.asdict(found), f"agent {found.device}", json=json)


@app.command()
def releases(config: Config, json: Json = False) -> None:
    """Show which release serves on this device, which served before, and what was refused."""
    from .edge.release import ReleaseStore

    loaded = AgentConfig.load(config)
    state = ReleaseStore.of_device(loaded).state()
    _show(msgspec.structs.asdict(state), f"releases on {loaded.device}", json=json)


@app.command()
def train_now(config: Config, json: Json = False) -> None:
    """Have the agent do the tasks that it has now, whatever its readiness policy says."""
    found = AgentStatus.read(AgentConfig.load(config))
    if not found.running or not found.pid:
        raise AgentNotRunningError(f"Expected the agent of {found.device} to run, it does not.")
    try:
        os.kill(found.pid, signal.SIGUSR1)
    except PermissionError as error:
        raise AgentNotRunningError(
            f"Expected to be let signal process {found.pid}, it belongs to another user.",
            remedy="Run this as the agent's user, or as root.",
        ) from error
    except ProcessLookupError as error:
        raise AgentNotRunningError(f"Expected process {found.pid} to be the agent, it has ended.") from error
    answer = {"device": found.device, "tasks": found.tasks}
    if json:
        typer.echo(msgspec.json.encode(answer).decode())
    else:
        typer.echo(f"{found.device} works on: {', '.join(found.tasks) or 'nothing; no task is at hand'}")


@app.command()
def export_samples(
    out: Annotated[Path, typer.Argument(help="A new folder; it gets train.npz and test.npz.")],
    config: Config,
    json: Json = False,
) -> None:
    """Write this device's own samples, decrypted, to files that only you can read."""
    import numpy as np

    from .edge.sample_source import SampleSource

    loaded = AgentConfig.load(config)
    counts: dict[str, int] = {}
    try:
        out.mkdir(parents=True, mode=0o700)
    except FileExistsError as error:
        raise SamplesError(
            f"Expected a folder that is not there yet, received {str(out)!r}.", remedy="Choose another name."
        ) from error
    with SampleSource(Path(loaded.samples), loaded.sampling) as source:
        for split in ("train", "test"):
            try:
                samples = source.load(split)
            except SamplesError:
                counts[split] = 0
                continue
            descriptor = os.open(out / f"{split}.npz", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **samples.arrays)
            counts[split] = len(samples)
    if json:
        typer.echo(msgspec.json.encode({"folder": str(out)} | counts).decode())
    else:
        typer.echo(f"{counts['train']} samples to train with and {counts['test']} to test with in {out}")


@app.command()
def install_service(
    config: Config,
    user: Annotated[str, typer.Option(help="Whom the agent runs as; make it first.")] = "hedgerow",
    print_: Annotated[bool, typer.Option("--print", help="Show the unit and change nothing.")] = False,
    start: Annotated[bool, typer.Option(help="Start it now and at every boot.")] = True,
    folder: Annotated[Path, typer.Option(help="Where units live.")] = services.UNIT_FOLDER,
) -> None:
    """Make the agent a systemd service with limits, a watchdog and a sandbox."""
    loaded = AgentConfig.load(config)
    text = services.unit_text(loaded, config, python=sys.executable, user=user)
    if print_:
        typer.echo(text, nl=False)
        return
    path = folder / services.unit_name(loaded)
    try:
        services.make_folders(loaded, user)
        path.write_text(text)
    except KeyError as error:
        raise ServiceError(
            f"Expected a user {user!r} on this machine, there is none.",
            remedy=f"Make it: useradd --system --shell /usr/sbin/nologin {user}",
        ) from error
    except OSError as error:
        raise ServiceError(f"Expected to write {path}, received: {error.strerror}.") from error
    typer.echo(f"{path}")
    if start:
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", path.name)


def _systemctl(*words: str) -> None:
    try:
        subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise ServiceError(
            f"Expected systemctl {' '.join(words)} to work, received: {said.strip()}.",
            remedy="The unit is written; with --no-start it is not started here.",
        ) from error


def _show(found: dict[str, Any], title: str, *, json: bool) -> None:
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(show_header=False, title=title)
    for name, value in found.items():
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
