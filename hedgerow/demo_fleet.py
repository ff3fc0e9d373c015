"""The demo's fleet on this machine: a broker, a coordinator and one agent process per device."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .broker import HOST, check_free, free_port
from .coordinator import events
from .coordinator.config import CoordinatorConfig
from .edge.config import AgentConfig
from .errors import BrokerError
from .processes import Processes, wait_for_port
from .protocol.link import Broker, Connected, LinkEvent, MqttLink, check_reachable
from .protocol.topics import Topics

if TYPE_CHECKING:
    from .models.datasets import Dataset, DeviceData

CLEAR_SECONDS = 5.0


def check_broker(*, url: str | None, port: int | None) -> None:
    """Passes if the user's broker answers, or the embedded one can have its port.

    Raises:
        BrokerUrlError: `url` is no address.
        BrokerError: The broker does not answer or refuses us.
        PortInUseError: `port` is taken.
    """
    if url is not None:
        check_reachable(Broker.from_url(url))
    elif port is not None:
        check_free(port)


def start_broker(processes: Processes, *, url: str | None, port: int | None) -> str:
    """The address of the user's broker, or of an embedded one while `processes` last.

    Raises:
        BrokerError: The embedded broker does not answer.
    """
    if url is not None:
        return url
    if port is None:
        port = free_port()
    child = processes.start("broker", "hedgerow.broker", "--port", str(port))
    if not wait_for_port(port, child):
        raise BrokerError(f"Expected the embedded broker on {HOST}:{port}, received no answer.")
    return f"mqtt://{HOST}:{port}"


def new_fleet() -> str:
    """A fleet's name that no other demo on the same broker has."""
    return f"demo-{secrets.token_hex(3)}"


def write_samples(path: Path, data: Dataset) -> None:
    """Writes one device's samples as its agent reads them: `x` and `y`, or `x0`, `x1` and so on and `y`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = {f"x{index}": array for index, array in enumerate((data.x, *data.more))}
    np.savez(path, y=data.y, **(inputs if data.more else {"x": data.x}))


def start_agents(
    processes: Processes, devices: tuple[DeviceData, ...], *, folder: Path, fleet: str, url: str, runtime: str
) -> None:
    """Starts one agent process per device, each with a folder of its own."""
    for device in devices:
        home = folder / device.name
        write_samples(home / "samples" / "train.npz", device.train)
        write_samples(home / "samples" / "test.npz", device.test)
        config = AgentConfig(
            device=device.name,
            fleet=fleet,
            broker=url,
            folder=str(home / "state"),
            samples=str(home / "samples"),
            runtime=runtime,  # type: ignore[arg-type]
        )
        config.write(home / "agent.toml")
        processes.start(device.name, "hedgerow.edge", "--config", str(home / "agent.toml"))


def follow_coordinator(processes: Processes, config: CoordinatorConfig, path: Path) -> Iterator[events.Event]:
    """Starts the coordinator and yields what it tells until it has finished.

    Raises:
        ProcessError: It ended before.
    """
    config.write(path)
    child = processes.start(
        "coordinator", "hedgerow", "coordinator", "run", "--config", str(path), "--json", capture=True
    )
    assert child.stdout is not None
    finished = False
    for line in child.stdout:
        event = events.from_line(line)
        finished = isinstance(event, events.Finished)
        yield event
    if not finished:
        raise processes.failure("coordinator")


def clear_retained(url: str, fleet: str, devices: tuple[str, ...]) -> None:
    """Leaves nothing retained on a broker that is not ours."""
    topics = Topics(fleet)
    connected = threading.Event()

    def note(event: LinkEvent) -> None:
        if isinstance(event, Connected):
            connected.set()

    link = MqttLink(Broker.from_url(url), client_id=f"{fleet}-clear", will=None, on_event=note)
    if connected.wait(CLEAR_SECONDS):
        for topic in (topics.coordinator, *(topics.state(device) for device in devices)):
            link.publish(topic, b"", retain=True)
    link.close()
