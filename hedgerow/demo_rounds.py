"""What the demo's federated rounds give, put together from what the coordinator tells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from .coordinator import events
from .coordinator.records import RoundRecord
from .demo_view import percent, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What the federated rounds gave.

    Args:
        weights: The file of the refined model; None until the coordinator has finished.
        rounds: As the coordinator has them.
        agents: What they last said of themselves.
        losses_before: Each device's loss on its own test samples, as it measured it before the first round.
        losses_after: After the last.
    """

    weights: Path | None = None
    rounds: tuple[RoundRecord, ...] = ()
    agents: tuple[events.DeviceReport, ...] = ()
    losses_before: dict[str, float] = field(default_factory=dict)
    losses_after: dict[str, float] = field(default_factory=dict)

    def then(self, event: events.Event) -> Refined:
        """With one more event."""
        match event:
            case events.UpdateCounted(phase="train", round=1, device=device, metrics=metrics):
                return replace(
                    self, losses_before=self.losses_before | _loss(device, metrics, "test_loss_before")
                )
            case events.PhaseOpened(phase="evaluate"):
                return replace(self, losses_after={})
            case events.UpdateCounted(phase="evaluate", device=device, metrics=metrics):
                return replace(self, losses_after=self.losses_after | _loss(device, metrics, "loss"))
            case events.RoundEnded(record=record):
                return replace(self, rounds=(*self.rounds, record))
            case events.Finished(weights=weights, devices=agents):
                return replace(self, weights=Path(weights), agents=agents)
            case _:
                return self

    def in_words(self, *, classifies: bool) -> str:
        """How many rounds, and how the last one's model does."""
        last = self.rounds[-1]
        if classifies:
            result = f"held-out {percent(last.held_out_accuracy)}"
        elif last.held_out_loss is not None:
            result = f"held-out loss {shown(last.held_out_loss)}"
        else:
            result = f"loss on devices {shown(last.device_loss)}"
        return f"{len(self.rounds)} rounds, {result}"


def _loss(device: str, metrics: dict[str, float], name: str) -> dict[str, float]:
    return {device: metrics[name]} if name in metrics else {}
