"""How a strategy gets its replies: folded as they come where that is enough, else from disk.

Mean-type strategies see one reply that carries the weighted mean of all. Differential privacy clips each
update as it comes and adds its noise to the mean; q-FedAvg (openreview.net/pdf?id=ByexElSYDr) sums its two
terms. All of that takes the memory of one model, whatever the number of devices. Medians and Krum need every
reply: they are read from disk when the round closes, in the order of the devices' names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import TensorsError
from ..protocol.messages import Update
from ..protocol.tensors import Weights
from . import flower, flower_strategies
from .aggregation import RunningMean

Outcome = tuple[Weights | None, dict[str, float]]


class Replies(Protocol):
    """A phase's updates on their way into a strategy."""

    def judge(self, update: Update, weights: Weights) -> None:
        """Passes if the update can be taken in; else `TensorsError`: it would spoil what the others gave."""

    def fold(self, update: Update, weights: Weights | None) -> None:
        """Takes in one update."""

    def conclude(self, strategy: Any, round_: int, message: Any) -> Outcome:
        """The strategy's verdict: the new model, or None where it has none, and the metrics."""


@dataclass(slots=True)
class MeanReply:
    """One reply that carries the mean of all.

    Args:
        train: Whether it is about new weights, or an evaluation.
    """

    train: bool
    mean: RunningMean = field(default_factory=RunningMean.empty)

    def judge(self, update: Update, weights: Weights) -> None:
        """Passes: every model can be averaged."""

    def fold(self, update: Update, weights: Weights | None) -> None:
        """Adds one update to the mean."""
        self.mean = self.mean.fold(weights or {}, update.metrics, update.num_examples)

    def reply(self, message: Any) -> Any:
        """The mean as a reply."""
        weights = self.mean.weights() if self.train else None
        return flower.make_reply(message, weights, self.mean.metrics(), self.mean.num_examples)

    def conclude(self, strategy: Any, round_: int, message: Any) -> Outcome:
        """What the strategy makes of the mean."""
        if not self.train:
            return None, flower.plain(strategy.aggregate_evaluate(round_, [self.reply(message)]))
        return flower.outcome(strategy.aggregate_train(round_, [self.reply(message)]))


@dataclass(slots=True)
class PrivateReply:
    """The mean of clipped updates, and noise on it: the four wrappers for differential privacy.

    Args:
        strategy: The wrapper.
        start: The weights that were sent out.
    """

    strategy: Any
    start: Weights
    mean: MeanReply = field(default_factory=lambda: MeanReply(train=True))
    clipped: int = 0

    def judge(self, update: Update, weights: Weights) -> None:
        """Passes: every model can be clipped."""

    def fold(self, update: Update, weights: Weights | None) -> None:
        """Clips one update, where that is the server's part, and adds it to the mean."""
        assert weights is not None
        if flower_strategies.clips_itself(self.strategy):
            weights, was_clipped = flower.clip(weights, self.start, self.strategy.clipping_norm)
            self.clipped += was_clipped
        else:
            self.clipped += bool(update.metrics.get(flower.NORM_BIT, 0.0))
        self.mean.fold(update, weights)

    def conclude(self, strategy: Any, round_: int, message: Any) -> Outcome:
        """What the wrapped strategy makes of the mean, with the wrapper's noise."""
        reply = self.mean.reply(message)
        terms = self.mean.mean.terms
        return flower.outcome(
            flower_strategies.conclude_private(strategy, round_, reply, self.clipped, terms)
        )


@dataclass(slots=True)
class FairReply:
    """The two sums of q-FedAvg.

    Args:
        strategy: The QFedAvg.
        start: The weights that were sent out.
    """

    strategy: Any
    start: Weights
    delta: dict[str, Any] = field(default_factory=dict)
    weight: float = 0.0
    mean: RunningMean = field(default_factory=RunningMean.empty)

    def judge(self, update: Update, weights: Weights) -> None:
        """Passes if its terms are numbers: with a loss below zero, or far from the model, they are not."""
        with np.errstate(all="ignore"):
            delta, weight = self._terms(update, weights)
            finite = np.isfinite(weight) and all(np.isfinite(term).all() for term in delta)
        if not finite:
            key = self.strategy.train_loss_key
            raise TensorsError(
                f"Expected weights and a loss that q-FedAvg can weigh, received {key} {update.metrics[key]}."
            )

    def fold(self, update: Update, weights: Weights | None) -> None:
        """Adds one update's terms."""
        assert weights is not None
        delta, weight = self._terms(update, weights)
        for name, term in zip(self.start, delta, strict=True):
            self.delta[name] = self.delta.get(name, 0.0) + term.astype(np.float64)
        self.weight += weight
        self.mean = self.mean.fold({}, update.metrics, update.num_examples)

    def _terms(self, update: Update, weights: Weights) -> tuple[list[np.ndarray[Any, Any]], float]:
        loss = update.metrics[self.strategy.train_loss_key]
        return flower_strategies.fair_terms(self.strategy, self.start, weights, loss)

    def conclude(self, strategy: Any, round_: int, message: Any) -> Outcome:
        """The new model: the old one less the quotient of the sums."""
        weights = {
            name: (value - self.delta[name] / self.weight).astype(np.float32)
            for name, value in self.start.items()
        }
        return weights, self.mean.metrics()


@dataclass(slots=True)
class EveryReply:
    """All replies, as the strategy asks for them.

    Args:
        read: Gives an update's weights from disk.
    """

    read: Callable[[Update], Weights]
    updates: list[Update] = field(default_factory=list)

    def judge(self, update: Update, weights: Weights) -> None:
        """Passes: what an outlier is, the strategy itself decides."""

    def fold(self, update: Update, weights: Weights | None) -> None:
        """Remembers that the update is on disk."""
        self.updates.append(update)

    def conclude(self, strategy: Any, round_: int, message: Any) -> Outcome:
        """What the strategy makes of them."""
        ordered = sorted(self.updates, key=lambda update: update.device)
        replies = [
            flower.make_reply(message, self.read(update), update.metrics, update.num_examples)
            for update in ordered
        ]
        return flower.outcome(strategy.aggregate_train(round_, replies))


def replies_for(strategy: Any, *, train: bool, start: Weights, read: Callable[[Update], Weights]) -> Replies:
    """The way that suits a strategy.

    Args:
        strategy: Flower's.
        train: The phase.
        start: The weights that were sent out.
        read: Gives an update's weights from disk.
    """
    if not train or flower_strategies.is_mean_type(strategy):
        return MeanReply(train=train)
    if flower_strategies.is_private(strategy) and flower_strategies.is_mean_type(strategy.strategy):
        return PrivateReply(strategy, start)
    if flower_strategies.is_fair(strategy):
        return FairReply(strategy, start)
    return EveryReply(read)
