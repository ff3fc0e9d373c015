"""All that the agent knows about its tasks, as frozen data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...protocol import messages
from ...protocol.messages import Task
from ...protocol.topics import Topics
from ..result import Result
from .download import Download

REPEAT_SECONDS = 15.0
OVER_AT_MOST = 512


@dataclass(frozen=True, slots=True)
class Job:
    """A task that is not finished.

    Args:
        task: What to do.
        deadline: When the answer is of no use any more, on the session's clock.
        download: Its blobs on their way in; None while it waits for its turn.
        working: The worker has it.
        spoiled: How often a blob came with another digest than its name.
        told: When its progress was last published.
    """

    task: Task
    deadline: float
    download: Download | None = None
    working: bool = False
    spoiled: int = 0
    told: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A release that is being fetched.

    Args:
        signed: Its signed manifest.
        download: Its files on their way in.
        installing: All files are here.
        spoiled: How often a file came with another digest than its name.
    """

    signed: bytes
    download: Download
    installing: bool = False
    spoiled: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A result in the spool, and when it was last announced or asked for."""

    result: Result
    said_at: float


@dataclass(frozen=True, slots=True)
class Session:
    """All that the agent knows.

    Args:
        topics: Of the fleet.
        device: This device's id.
        incarnation: Counts the agent's starts.
        blob_limit_bytes: Larger blobs are refused.
        now: Seconds on the monotonic clock.
        connected: Whether the broker hears us.
        epoch: The coordinator's newest.
        confirmed: Whether the coordinator has said so itself since we connected, and is online.
        counter: Of the last message published.
        seen: Counters of the coordinator's last messages in this epoch.
        job: The task in hand.
        queue: Tasks that wait, in order of arrival.
        held: Finished tasks, not settled.
        over: Tasks that were settled or cancelled, the newest last.
        failures: Tasks that could not be done, and why, the newest last.
        waits_for: What keeps the device from working on the task in hand.
        probe_at: When to look again whether it may work.
        channel: Whose releases the device runs; empty: none.
        instance: Tells this start of the agent from every other, also on another machine.
        connections: How often the broker has accepted us.
        twin: What is known of another agent with this device's id.
        twin_until: Until when that is told.
        incoming: The release that is being fetched.
    """

    topics: Topics
    device: str
    incarnation: int
    blob_limit_bytes: int = messages.BLOB_LIMIT_BYTES
    now: float = 0.0
    connected: bool = False
    epoch: int = 0
    confirmed: bool = False
    counter: int = 0
    seen: tuple[int, ...] = ()
    job: Job | None = None
    queue: tuple[Job, ...] = ()
    held: tuple[Held, ...] = ()
    over: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    waits_for: tuple[str, ...] = ()
    probe_at: float = float("-inf")
    channel: str = ""
    instance: str = ""
    connections: int = 0
    twin: str = ""
    twin_until: float = float("-inf")
    incoming: Incoming | None = None

    @classmethod
    def restored(
        cls,
        *,
        topics: Topics,
        device: str,
        incarnation: int,
        results: Iterable[Result] = (),
        over: Iterable[str] = (),
        blob_limit_bytes: int = messages.BLOB_LIMIT_BYTES,
        channel: str = "",
        instance: str = "",
    ) -> Session:
        """The session of an agent that has just started, from what its disk remembers."""
        held = tuple(Held(result, float("-inf")) for result in results)
        return cls(
            topics,
            device,
            incarnation,
            blob_limit_bytes,
            held=held,
            over=tuple(over)[-OVER_AT_MOST:],
            channel=channel,
            instance=instance,
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every unfinished task, the one in hand first."""
        return (self.job, *self.queue) if self.job else self.queue

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every unfinished and unsettled task."""
        return (*(job.task.task for job in self.jobs), *(held.result.task for held in self.held))

    @property
    def wake_at(self) -> float:
        """When the next `Tick` is due at the latest; infinity when nothing waits for time to pass."""
        times = [job.deadline for job in self.jobs]
        if self.job:
            times.append(self.probe_at)
        if self.connected:
            times += [held.said_at + REPEAT_SECONDS for held in self.held]
            if self.job and self.job.download:
                times.append(self.job.download.overdue_at)
            if self.incoming:
                times.append(self.incoming.download.overdue_at)
        return min(times, default=float("inf"))
