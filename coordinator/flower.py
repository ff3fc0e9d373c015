"""The one place that knows Flower: strategies by name, a `Grid` over our devices, tensors as its records.

Flower's public `Message` needs an identity that its runtime normally sets, and `Grid` names private classes
whose paths moved between minor versions: all of that is here and nowhere else.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.qfedavg import compute_delta_and_h
from flwr.supercore.differential_privacy import KEY_NORM_BIT, compute_adaptive_clip_model_update
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ..errors import StrategyError
from ..protocol.messages import Scalar
from ..protocol.tensors import Weights

ARRAYS, CONFIG, METRICS, NUM_EXAMPLES = "arrays", "config", "metrics", "num-examples"
PATIENCE = 4
NORM_BIT = KEY_NORM_BIT
RUN_ID = 1

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


def clip(weights: Weights, start: Weights, norm: float) -> tuple[Weights, bool]:
    """Weights whose difference from `start` is at most `norm` long, and whether they were longer."""
    values = list(weights.values())
    # Flower divides by the length: an update that changed nothing has none.
    if all(np.array_equal(value, start[name]) for name, value in weights.items()):
        return weights, False
    clipped = compute_adaptive_clip_model_update(values, [start[name] for name in weights], norm)
    return dict(zip(weights, values, strict=True)), bool(clipped)


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


def to_arrays(weights: Weights) -> ArrayRecord:
    """Tensors as Flower's record, in their order."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def from_arrays(arrays: ArrayRecord) -> Weights:
    """Flower's record as float32 tensors: some strategies compute in float64."""
    return {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}


def to_config(values: Mapping[str, Scalar]) -> ConfigRecord:
    """What nodes are to know, as Flower's record."""
    return ConfigRecord(dict(values))


def configure(
    strategy: Strategy,
    round_: int,
    weights: Weights,
    config: Mapping[str, Scalar],
    *,
    nodes: list[int],
    train: bool,
    seed: str,
) -> list[Message]:
    """The strategy's messages to the nodes that it samples.

    Args:
        strategy: Flower's.
        round_: Counts from 1.
        weights: The model to send.
        config: What nodes are to know.
        nodes: Those to sample from.
        train: The phase.
        seed: Decides the sample.

    Raises:
        StrategyError: The strategy waits for more nodes than there are.
    """
    asked = 0

    def available() -> list[int]:
        nonlocal asked
        asked += 1
        if asked > PATIENCE:
            raise StrategyError(
                f"Expected a strategy that takes {len(nodes)} nodes, received one that waits."
            )
        return nodes

    random.seed(seed)
    method = strategy.configure_train if train else strategy.configure_evaluate
    return list(method(round_, to_arrays(weights), to_config(config), NodeGrid(available)))


def config_of(message: Message) -> dict[str, Scalar]:
    """What a strategy wants its nodes to know, from the first ConfigRecord of its message."""
    record = next(iter(message.content.config_records.values()), ConfigRecord())
    return {name: value for name, value in record.items() if isinstance(value, bool | int | float | str)}


def make_reply(
    message: Message, weights: Weights | None, metrics: Mapping[str, float], num_examples: int
) -> Message:
    """What a Flower client app would have answered to `message`.

    Args:
        message: What the strategy sent.
        weights: New weights; None for an evaluation.
        metrics: Averaged over the node's samples.
        num_examples: The weight of this reply.
    """
    content = RecordDict({METRICS: MetricRecord({**metrics, NUM_EXAMPLES: num_examples})})
    if weights is not None:
        content[ARRAYS] = to_arrays(weights)
    return Message(content, reply_to=message)


def plain(metrics: MetricRecord | None) -> dict[str, float]:
    """A MetricRecord's numbers."""
    return {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}


def outcome(
    verdict: tuple[ArrayRecord | None, MetricRecord | None],
) -> tuple[Weights | None, dict[str, float]]:
    """What a strategy returned, in our own types."""
    arrays, metrics = verdict
    return None if arrays is None else from_arrays(arrays), plain(metrics)


def quiet() -> None:
    """Leaves Flower's warnings in our log and its console tables out of it."""
    logging.getLogger("flwr").setLevel(logging.WARNING)


class NodeGrid(Grid):
    """What a strategy sees of the fleet: node ids to sample from.

    Messages do not go through it: our round loop sends them, so that it can journal and resume.

    Args:
        nodes: Gives the ids of the nodes that are available.
    """

    def __init__(self, nodes: Callable[[], Iterable[int]]) -> None:
        self._nodes = nodes
        self._run = Run.create_empty(RUN_ID)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        """Sets the run this grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are available."""
        return self._nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused: the round loop sends a strategy's messages itself."""
        raise StrategyError(
            "Expected a strategy that returns its messages, received one that pushes them itself."
        )

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refused, as `push_messages` is."""
        raise StrategyError(
            "Expected a strategy that is given its replies, received one that pulls them itself."
        )

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Refused, as `push_messages` is."""
        raise StrategyError(
            "Expected a strategy that is given its replies, received one that sends for itself."
        )
