"""Updates that come rounds after they were asked for, brought to the model of the round in which they count.

A device that trained from an older model tells what it changed there. A part of that change, as the policy
says, is added to the newer model: buffered asynchronous aggregation (FedBuff, arxiv.org/abs/2106.06639).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..protocol.messages import BlobReference, Update
from ..protocol.tensors import Weights
from .policy import StragglerPolicy, TargetOrDeadline
from .records import Outstanding


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the updates of one phase are, and what that makes of them.

    Attributes:
        round: Of the phase.
        start: The model that it sent out.
        earlier: The tasks of earlier rounds among its own.
        policy: Says what part of a late change counts.
        read: Reads a model that was sent out earlier.
    """

    round: int
    start: Weights
    earlier: Mapping[str, Outstanding] = field(default_factory=dict)
    policy: StragglerPolicy = field(default_factory=lambda: TargetOrDeadline(0, 0.0))
    read: Callable[[BlobReference], Weights] = lambda weights: {}

    def asked_in(self, task: str) -> int:
        """The round in which a task was given out."""
        asked = self.earlier.get(task)
        return self.round if asked is None else asked.round

    def forward(self, update: Update, weights: Weights) -> Weights:
        """The weights as if they had been trained from this phase's model."""
        asked = self.earlier.get(update.task)
        if asked is None:
            return weights
        before, share = self.read(asked.weights), self.policy.share(self.round - asked.round)
        return {
            name: (self.start[name] + np.float32(share) * (value - before[name])).astype(value.dtype)
            for name, value in weights.items()
        }
