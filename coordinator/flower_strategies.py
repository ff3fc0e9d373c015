"""Flower's strategies by name, and what the coordinator has to know of each kind."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.qfedavg import compute_delta_and_h

from ..errors import StrategyError
from ..protocol.tensors import Weights
from .flower import NORM_BIT

# Flower's own minimums make it wait in a loop for two nodes that may never come: the coordinator's rule.
LONE_NODE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}

# Their aggregation is a weighted mean of the replies, followed by something that sees only the mean: for them
# one reply that carries the mean gives the same result as all replies, in the memory of one.
MEAN_TYPE = (
    strategies.FedAvg,
    strategies.FedAvgM,
    strategies.FedProx,
    strategies.FedAdam,
    strategies.FedAdagrad,
    strategies.FedYogi,
)

PRIVATE = (
    strategies.DifferentialPrivacyServerSideFixedClipping,
    strategies.DifferentialPrivacyServerSideAdaptiveClipping,
    strategies.DifferentialPrivacyClientSideFixedClipping,
    strategies.DifferentialPrivacyClientSideAdaptiveClipping,
)


def strategy_names() -> tuple[str, ...]:
    """The names that `make_strategy` takes: the strategies that work on arrays."""
    return tuple(
        name
        for name in strategies.__all__
        if inspect.isclass(cls := getattr(strategies, name))
        and issubclass(cls, (strategies.FedAvg, *PRIVATE))
        and not name.startswith("FedXgb")
    )


def make_strategy(name: str, arguments: Mapping[str, Any], wrapped: Strategy | None = None) -> Strategy:
    """A Flower strategy by its class's name.

    Args:
        name: As in `flwr.serverapp.strategy`; upper and lower case do not matter.
        arguments: Keyword arguments of the class; one node is enough unless they say otherwise.
        wrapped: The strategy inside, for those of differential privacy; FedAvg by default.

    Raises:
        StrategyError: There is no such strategy, or it does not take the arguments.
    """
    by_lower_case = {known.lower(): known for known in strategy_names()}
    known = by_lower_case.get(name.lower())
    if known is None:
        raise StrategyError(f"Expected a strategy out of {', '.join(strategy_names())}, received {name!r}.")
    cls = getattr(strategies, known)
    private = issubclass(cls, PRIVATE)
    if wrapped is not None and not private:
        raise StrategyError(f"Expected a strategy for differential privacy around another, received {known}.")
    inside = {"strategy": wrapped or make_strategy("FedAvg", {})} if private else LONE_NODE
    try:
        strategy: Strategy = cls(**{**inside, **arguments})
    except (TypeError, ValueError) as error:
        raise StrategyError(
            f"Expected arguments that {known} takes, received {dict(arguments)}: {error}."
        ) from error
    return strategy


def is_mean_type(strategy: Strategy) -> bool:
    """Whether the strategy needs no more of a round's replies than their weighted mean."""
    return type(strategy) in MEAN_TYPE


def is_private(strategy: Strategy) -> bool:
    """Whether the strategy is a wrapper for differential privacy."""
    return type(strategy) in PRIVATE


def is_fair(strategy: Strategy) -> bool:
    """Whether the strategy is q-FedAvg."""
    return type(strategy) is strategies.QFedAvg


def train_metrics(strategy: Strategy) -> frozenset[str]:
    """The metrics that a training reply must have for this strategy."""
    adaptive = isinstance(strategy, strategies.DifferentialPrivacyClientSideAdaptiveClipping)
    loss = strategy.train_loss_key if isinstance(strategy, strategies.QFedAvg) else "train_loss"
    return frozenset({loss, NORM_BIT} if adaptive else {loss})


def needed_nodes(strategy: Strategy, *, train: bool) -> int:
    """How many nodes the strategy insists on; it waits for ever for fewer."""
    inner = strategy.strategy if isinstance(strategy, PRIVATE) else strategy
    if not isinstance(inner, strategies.FedAvg):
        return 1
    return max(inner.min_available_nodes, inner.min_train_nodes if train else inner.min_evaluate_nodes)


def clips_itself(strategy: Strategy) -> bool:
    """Whether clipping is the server's part."""
    return type(strategy) in PRIVATE[:2]


def conclude_private(
    strategy: Any, round_: int, reply: Message, clipped: int, terms: int
) -> tuple[ArrayRecord | None, MetricRecord | None]:
    """What a wrapper for differential privacy does with the mean of clipped updates.

    Args:
        strategy: The wrapper.
        round_: Counts from 1.
        reply: The mean.
        clipped: How many updates were clipped; an adaptive wrapper moves its norm by that.
        terms: How many updates there were.
    """
    if isinstance(strategy, PRIVATE[1]):
        strategy._geometric_update(strategy._noisy_fraction(clipped, terms))
    arrays, metrics = strategy.strategy.aggregate_train(round_, [reply])
    if isinstance(strategy, PRIVATE[3]):
        strategy._geometric_update(strategy._noisy_fraction(clipped, terms))
    if arrays is not None:
        arrays = strategy._add_noise_to_aggregated_arrays(arrays)
    return arrays, metrics


def fair_terms(
    strategy: Any, start: Weights, weights: Weights, loss: float
) -> tuple[list[np.ndarray[Any, Any]], float]:
    """One update's two terms in q-FedAvg's sums."""
    lipschitz = 1.0 / strategy.client_learning_rate
    local = [np.array(weights[name]) for name in start]
    return compute_delta_and_h(list(start.values()), local, strategy.q, lipschitz, loss)
