"""The one place that knows Flower's private parts: its `Grid`, identities, messages and app projects.

Flower's public `Message` needs an identity that its runtime normally sets, and `Grid` names private classes
whose paths moved between minor versions: all of that is here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import click
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.common.config import (
    get_fused_config_from_dir,
    get_metadata_from_config,
    get_project_config,
    parse_config_args,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.differential_privacy import KEY_NORM_BIT, compute_adaptive_clip_model_update
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ..errors import FlowerAppError, StrategyError
from ..protocol.messages import FlowerMessage, Scalar
from ..protocol.tensors import Weights

ARRAYS, CONFIG, METRICS, NUM_EXAMPLES = "arrays", "config", "metrics", "num-examples"
PATIENCE = 4
NORM_BIT = KEY_NORM_BIT
RUN_ID = 1


def clip(weights: Weights, start: Weights, norm: float) -> tuple[Weights, bool]:
    """Weights whose difference from `start` is at most `norm` long, and whether they were longer."""
    values = list(weights.values())
    # Flower divides by the length: an update that changed nothing has none.
    if all(np.array_equal(value, start[name]) for name, value in weights.items()):
        return weights, False
    clipped = compute_adaptive_clip_model_update(values, [start[name] for name in weights], norm)
    return dict(zip(weights, values, strict=True)), bool(clipped)


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


# --- messages and apps --------------------------------------------------------------------------------------


def be(run_id: int, node_id: int = SUPERLINK_NODE_ID) -> None:
    """Gives this process the identity that Flower's messages ask for; by default that of its server."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, node_id


def received(said: FlowerMessage, task: str, content: RecordDict) -> Message:
    """The message that a ClientApp is to answer."""
    metadata = Metadata(
        run_id=said.run_id,
        message_id=task,
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=said.node_id,
        reply_to_message_id="",
        group_id=said.group_id,
        created_at=time.time(),
        ttl=said.ttl_seconds,
        message_type=said.message_type,
    )
    return make_message(metadata, content)


def sent(message: Message, task: str) -> Message:
    """Names a message, as Flower's server does, and returns it without its content, to be replied to."""
    message.metadata.__dict__["_message_id"] = task
    return make_message(message.metadata, RecordDict())


def reply_of(message: Message, content: RecordDict) -> Message:
    """The reply that a node gave."""
    reply = Message(content, reply_to=message)
    reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
    return reply


def failure_of(message: Message, reason: str, *, unavailable: bool) -> Message:
    """The reply for a node that gave none."""
    code = ErrorCode.NODE_UNAVAILABLE if unavailable else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    reply = Message(Error(code, reason), reply_to=message)
    reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
    return reply


def as_failure(reply: Message, reason: str) -> Message:
    """A reply that cannot be used, as the failure of its node."""
    return make_message(reply.metadata, error=Error(ErrorCode.UNKNOWN, reason))


@dataclass(frozen=True, slots=True)
class Project:
    """A Flower app's folder, as its pyproject.toml describes it.

    Args:
        folder: Where it is.
        name: "publisher/name".
        version: Of the app.
        components: References "module:attribute" by kind, "serverapp" and "clientapp".
        config: The run's configuration, flat, with the user's values.
    """

    folder: Path
    name: str
    version: str
    components: Mapping[str, str]
    config: Mapping[str, Scalar]

    @classmethod
    def read(cls, folder: Path, overrides: list[str] | None = None) -> Project:
        """Reads pyproject.toml as `flwr run` does.

        Args:
            folder: The app's.
            overrides: `key=value` pairs or one TOML file, as for `flwr run --run-config`.

        Raises:
            FlowerAppError: There is no app, or it has no such values.
        """
        folder = folder.absolute()
        try:
            described = get_project_config(folder)
            config = get_fused_config_from_dir(folder, parse_config_args(overrides))
        except (OSError, ValueError, click.ClickException) as error:
            reason = error.message if isinstance(error, click.ClickException) else error
            raise FlowerAppError(f"Expected a Flower app in {folder}, received: {reason}.") from error
        name, version = get_metadata_from_config(described)
        return cls(folder, name, version, described["tool"]["flwr"]["app"]["components"], config)

    def load(self, kind: str) -> Any:
        """The app's object of a kind; its folder is on `sys.path` from now on.

        Raises:
            FlowerAppError: It cannot be imported.
        """
        reference = self.components.get(kind, "")
        try:
            return load_app(reference, ImportError, self.folder)
        except Exception as error:
            raise FlowerAppError(
                f"Expected the {kind} {reference!r} of {self.folder}, received"
                f" {type(error).__name__}: {str(error).strip()}."
            ) from error


class NodeGrid(Grid):
    """What a strategy sees of the fleet: node ids to sample from.

    Messages do not go through it: our round loop sends them, so that it can journal and resume.

    Args:
        nodes: Gives the ids of the nodes that are available.
    """

    def __init__(self, nodes: Callable[[], Iterable[int]]) -> None:
        self._nodes = nodes
        self._run = Run.create_empty(RUN_ID)
        be(RUN_ID)

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
