"""When a phase closes, and what an update is worth that comes after: the policy for stragglers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Standing:
    """How a phase stands.

    Args:
        asked: Devices that were asked.
        stored: Updates that count.
        failed: Devices that can give none any more.
        seconds: Since the phase was opened, or since the coordinator took it up again.
    """

    asked: int
    stored: int
    failed: int
    seconds: float


class StragglerPolicy(Protocol):
    """Judges devices that are slower than others.

    Where late answers count, the devices work on when their phase closes; they are asked nothing else until
    they have answered or are too late.
    """

    def closes(self, standing: Standing) -> str:
        """Why the phase closes now; empty while it stays open."""

    def late(self, rounds_late: int) -> str:
        """Why an update that comes `rounds_late` rounds after its own cannot count; empty if it can."""

    def share(self, rounds_late: int) -> float:
        """What part of the change in such an update counts, from 0 to 1."""


MakePolicy = Callable[[int, float], StragglerPolicy]
"""Makes a round's policy from how many updates the strategy wants and the seconds until the deadline."""


@dataclass(frozen=True, slots=True)
class TargetOrDeadline:
    """Synchronous rounds: over at the target or the deadline, whichever is first; late updates never count.

    Args:
        target: It closes as soon as so many updates are stored.
        seconds: It closes after so long with the updates that it has.
    """

    target: int
    seconds: float

    def closes(self, standing: Standing) -> str:
        """Why the phase closes now; empty while it stays open."""
        if standing.stored >= self.target:
            return "target"
        if standing.stored + standing.failed >= standing.asked:
            return "all ended"
        return "deadline" if standing.seconds >= self.seconds else ""

    def late(self, rounds_late: int) -> str:
        """Why an update that comes `rounds_late` rounds after its own cannot count; empty if it can."""
        return "" if rounds_late == 0 else "Its round has closed."

    def share(self, rounds_late: int) -> float:
        """What part of the change in such an update counts: all of it, since none is late."""
        return 1.0
