"""What the state folder tells about an agent, whether it runs or not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

import msgspec

from ..protocol.blobs import write_durably
from ..protocol.messages import DeviceState, Scalar
from .config import AgentConfig
from .sample_count import count_samples
from .spool import LOCK_NAME, SpoolSummary

_CONNECTION = "connection.json"
_WORD = "said.json"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent's connection was when it last changed.

    Args:
        connected: Whether the broker had accepted it.
        broker: Where the broker is.
        pid: The agent's process.
        reason: Why it was not connected.
    """

    connected: bool = False
    broker: str = ""
    pid: int = 0
    reason: str = ""

    def write(self, folder: Path) -> None:
        """Leaves word in the state folder."""
        write_durably(folder / _CONNECTION, msgspec.json.encode(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What was written last; the defaults where there is nothing readable."""
        try:
            return msgspec.json.decode((folder / _CONNECTION).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return cls()


def write_word(folder: Path, state: DeviceState) -> None:
    """Leaves in the state folder what the agent last said of itself."""
    write_durably(folder / _WORD, msgspec.json.encode(state))


def read_word(folder: Path) -> DeviceState | None:
    """What the agent last said of itself; None where there is nothing readable."""
    try:
        return msgspec.json.decode((folder / _WORD).read_bytes(), type=DeviceState)
    except (OSError, msgspec.MsgspecError):
        return None


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `hedgerow agent status` shows.

    Args:
        device: The device's id.
        running: Whether an agent uses the state folder now.
        connected: Whether it is connected to the broker.
        reason: Why it is not.
        broker: Where the broker is.
        pid: The agent's process, 0 when it does not run.
        incarnation: Counts its starts.
        waiting: Finished tasks that the coordinator has not stored yet.
        settled: Tasks that are over, as far as remembered.
        tasks: Unfinished and unsettled tasks, as last said.
        examples: Samples to train on now.
        test_examples: Samples to test with now.
        said: What it last said of itself: its release, memory, what it waits for.
    """

    device: str
    running: bool
    connected: bool
    reason: str
    broker: str
    pid: int
    incarnation: int
    waiting: tuple[str, ...]
    settled: int
    tasks: tuple[str, ...] = ()
    examples: int = 0
    test_examples: int = 0
    said: dict[str, Scalar] = {}

    @classmethod
    def read(cls, config: AgentConfig) -> Self:
        """Looks into the state folder without disturbing the agent.

        Raises:
            SpoolError: No agent has ever used the folder.
        """
        folder = Path(config.folder)
        summary, connection = SpoolSummary.read(folder), Connection.read(folder)
        running, word = _locked(folder / LOCK_NAME), read_word(folder)
        return cls(
            device=config.device,
            running=running,
            connected=running and connection.connected,
            reason=connection.reason,
            broker=connection.broker,
            pid=connection.pid if running else 0,
            incarnation=summary.incarnation,
            waiting=summary.waiting,
            settled=summary.over,
            tasks=word.tasks if word is not None else (),
            examples=count_samples(Path(config.samples), "train"),
            test_examples=count_samples(Path(config.samples), "test"),
            said=dict(word.capabilities) if word is not None else {},
        )


def _locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
