"""How a coordinator stands, for people and programs that look at its folder while it runs, or after."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.messages import DeviceState
from .events import Event, Finished, PhaseOpened, RoundEnded, Started, UpdateCounted, UpdateRefused
from .journal import Journal

WRITE_SECONDS = 0.5


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One device.

    Args:
        device: Who.
        online: Whether it can hear us.
        runtime: Of its models.
        examples: Its training samples.
        updates: Training updates of it that count.
        last_round: The last round it took part in; 0 if none.
        bytes_up: Bytes of the updates that count.
        seconds: What its last training took.
    """

    device: str
    online: bool = False
    runtime: str = ""
    examples: int = 0
    updates: int = 0
    last_round: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator.

    Args:
        pid: Its process; 0 when it has finished.
        at: When this was written, seconds since 1970.
        epoch: Of its connection.
        round: In hand.
        rounds: To be run.
        phase: "train", "evaluate", or empty.
        asked: Devices asked in this phase.
        counted: Updates counted in this phase.
        refused: Refused or failed in this phase.
        devices: Every device it has heard of.
    """

    pid: int = 0
    at: float = 0.0
    epoch: int = 0
    round: int = 0
    rounds: int = 0
    phase: str = ""
    asked: int = 0
    counted: int = 0
    refused: int = 0
    devices: tuple[DeviceStatus, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the process that wrote this is still there."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class StatusFile:
    """A listener that leaves `status.json` in the coordinator's folder.

    Args:
        folder: The coordinator's.
        states: Gives what devices last said of themselves.
    """

    def __init__(self, folder: Path, states: Callable[[], Iterable[DeviceState]]) -> None:
        self._path = folder / "status.json"
        self._states = states
        self._status = Status(pid=os.getpid())
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        """Takes in an event; writes not too often, but always what begins and ends something."""
        status, force = self._status, True
        changed: dict[str, Any] = {}
        match event:
            case Started():
                changed = {"epoch": event.epoch, "round": event.round, "rounds": event.rounds}
            case PhaseOpened():
                changed = {
                    "round": event.round,
                    "phase": event.phase,
                    "asked": len(event.devices),
                    "counted": 0,
                    "refused": 0,
                }
            case UpdateCounted():
                changed, force = {"counted": status.counted + 1}, False
            case UpdateRefused():
                changed, force = {"refused": status.refused + 1}, False
            case RoundEnded():
                changed = {"phase": ""}
            case Finished():
                changed = {"pid": 0, "phase": ""}
            case _:
                force = False
        self._status = msgspec.structs.replace(status, **changed)
        if force or time.monotonic() - self._written >= WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        devices = tuple(
            DeviceStatus(device=s.device, online=s.online, runtime=s.runtime, examples=s.examples)
            for s in self._states()
        )
        status = msgspec.structs.replace(self._status, at=time.time(), devices=devices)
        temporary = self._path.with_suffix(".writing")
        temporary.write_bytes(msgspec.json.encode(status))
        temporary.replace(self._path)


def read_status(folder: Path, *, round_: int | None = None) -> Status:
    """What the coordinator of this folder last wrote, with its devices' share from the journal.

    Args:
        folder: The coordinator's.
        round_: Only the share in this round.
    """
    status = _written(folder / "status.json")
    devices = {device.device: device for device in status.devices}
    journal = Journal(folder)
    for number in range(1, status.round + 1) if round_ is None else (round_,):
        for update in journal.updates(number, "train"):
            known = devices.get(update.device, DeviceStatus(device=update.device))
            devices[update.device] = msgspec.structs.replace(
                known,
                updates=known.updates + 1,
                last_round=number,
                bytes_up=known.bytes_up + (update.weights.size if update.weights else 0),
                seconds=update.seconds,
            )
    journal.close()
    return msgspec.structs.replace(status, devices=tuple(devices[name] for name in sorted(devices)))


def _written(path: Path) -> Status:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.MsgspecError):
        # Not yet, or a power failure has spoilt it: the next event writes it anew.
        return Status()
