"""What comes of a task: the agent and the training process both know it."""

from __future__ import annotations

import msgspec

from ..protocol.messages import BlobReference


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished task brought; the spool keeps it until the coordinator has stored it.

    Args:
        task: The task it answers.
        round: The task's round.
        num_examples: Samples it was trained or evaluated on.
        metrics: Averages over those samples.
        weights: The new weights, in the spool's blob store; None for an evaluation.
        seconds: What the work took.
    """

    task: str
    round: int
    num_examples: int
    metrics: dict[str, float]
    weights: BlobReference | None
    seconds: float
