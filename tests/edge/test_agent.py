"""A real agent process, a real broker, a real trainable file; the coordinator follows a script."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge.readiness import ReadinessPolicy
from hedgerow.hardware.runtime import installed
from hedgerow.protocol import tensors
from hedgerow.protocol.messages import (
    Accepted,
    BlobReference,
    Cancel,
    DeviceState,
    Failed,
    Missing,
    Progress,
    Task,
    Update,
)

Fixture = Any


@pytest.fixture
def offered(coordinator: Fixture, model: Fixture) -> dict[str, BlobReference]:
    return {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32"),
    }


def ask(coordinator: Fixture, offered: dict[str, BlobReference], name: str, **fields: Any) -> None:
    config = {"epochs": 1, "learning-rate": 0.05} | fields.pop("config", {})
    fields = {"round": 1, "phase": "train"} | fields
    coordinator.tell(Task, "d1", task=name, config=config, **offered, **fields)


@pytest.mark.parametrize("runtime", installed())
def test_a_round_of_training_and_evaluation(
    runtime: str, coordinator: Fixture, offered: dict[str, BlobReference], model: Fixture, make_agent: Fixture
) -> None:
    agent = make_agent(runtime=runtime)
    born = coordinator.wait(DeviceState, online=True)
    assert (born.examples, born.capabilities["test_examples"]) == (80, 33)
    assert born.runtime.startswith(runtime)
    ask(coordinator, offered, "evaluate-0", phase="evaluate")
    before = coordinator.wait(Update, task="evaluate-0")
    coordinator.settle(before)
    ask(coordinator, offered, "train-1", config={"epochs": 3})
    update = coordinator.wait(Update, task="train-1")
    weights = tensors.decode(coordinator.collect(update))
    coordinator.settle(update)
    start = tensors.decode(model.weights)
    tensors.check_like(weights, start)
    assert any(np.abs(weights[name] - start[name]).max() > 1e-4 for name in start)
    assert (update.round, update.num_examples) == (1, 80)
    trained = {"program": offered["program"], "weights": coordinator.offer(tensors.encode(weights))}
    ask(coordinator, trained, "evaluate-1", phase="evaluate", round=2)
    after = coordinator.wait(Update, task="evaluate-1")
    coordinator.settle(after)
    assert (after.num_examples, after.weights) == (33, None)
    assert after.metrics["loss"] < before.metrics["loss"]
    last = coordinator.wait(DeviceState, tasks=())
    assert last.capabilities["modules_forbidden"] == ""
    assert last.capabilities["rss_mib"] < 100
    code, seconds = agent.stop()
    assert (code, seconds < 1.0) == (0, True), agent.log
    assert coordinator.wait(DeviceState, online=False).incarnation == born.incarnation


def test_an_agent_says_its_death_when_it_is_killed(coordinator: Fixture, make_agent: Fixture) -> None:
    agent = make_agent()
    born = coordinator.wait(DeviceState, online=True)
    agent.kill()
    dead = coordinator.wait(DeviceState, online=False)
    assert dead.incarnation == born.incarnation
    agent.start()
    assert coordinator.wait(DeviceState, online=True).incarnation == born.incarnation + 1


def test_killed_while_downloading_it_goes_on_from_the_chunks_it_has(
    coordinator: Fixture, model: Fixture, make_agent: Fixture
) -> None:
    offered = {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32", but=(5,)),
    }
    agent = make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "t")
    missing = coordinator.wait(Missing)
    assert (missing.sha256, missing.chunks) == (offered["weights"].sha256, (5,))
    partial = agent.path / "state" / "blobs" / "partial" / offered["weights"].sha256
    assert len(list(partial.iterdir())) == offered["weights"].chunks - 1
    agent.kill()
    agent.start()
    coordinator.wait(DeviceState, online=True, tasks=())
    ask(coordinator, offered, "t")
    coordinator.wait(Accepted, task="t")
    coordinator.offer(model.weights, codec="f32")
    coordinator.wait(Update, task="t")


def test_killed_while_training_it_trains_again_and_answers_once(
    coordinator: Fixture, offered: dict[str, BlobReference], make_agent: Fixture
) -> None:
    agent = make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "t", config={"epochs": 5000})
    coordinator.wait(Progress, step="train")
    agent.kill()
    agent.start()
    coordinator.wait(DeviceState, online=True, tasks=())
    ask(coordinator, offered, "t", config={"epochs": 2})
    update = coordinator.wait(Update, task="t")
    coordinator.collect(update)
    coordinator.settle(update)
    coordinator.wait(DeviceState, tasks=())
    with pytest.raises(AssertionError):
        coordinator.wait(Update, seconds=1.0)


def test_killed_while_uploading_it_announces_the_same_update_again(
    coordinator: Fixture, offered: dict[str, BlobReference], make_agent: Fixture
) -> None:
    agent = make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "t")
    update = coordinator.wait(Update, task="t")
    coordinator.collect(update)
    agent.kill()
    agent.start()
    again = coordinator.wait(Update, task="t")
    assert (again.weights, again.metrics) == (update.weights, update.metrics)
    coordinator.collect(again)
    coordinator.settle(again)
    coordinator.wait(DeviceState, online=True, tasks=())
    agent.kill()
    agent.start()
    coordinator.wait(DeviceState, online=True, tasks=())
    ask(coordinator, offered, "t")
    coordinator.wait(Accepted, task="t")
    with pytest.raises(AssertionError):
        coordinator.wait(Update, seconds=1.0)


def children(pid: int) -> set[int]:
    """The living processes that a process started, by /proc/PID/task (proc(5))."""
    listed = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    found = {int(child) for words in listed for child in words}
    return {child for child in found if ") Z " not in Path(f"/proc/{child}/stat").read_text()}


def test_training_is_given_up_within_a_second(
    coordinator: Fixture, offered: dict[str, BlobReference], make_agent: Fixture
) -> None:
    agent = make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "long", config={"epochs": 5000})
    coordinator.wait(Progress, step="train")
    (child,) = children(agent.process.pid)
    coordinator.tell(Cancel, "d1", task="long", reason="the round has closed")
    begun = time.monotonic()
    while child in children(agent.process.pid):
        assert time.monotonic() - begun < 1.5
        time.sleep(0.02)
    ask(coordinator, offered, "short", phase="evaluate")
    coordinator.wait(Update, task="short")
    ask(coordinator, offered, "long-2", config={"epochs": 5000}, round=2)
    coordinator.wait(Progress, step="train", task="long-2")
    code, seconds = agent.stop()
    assert (code, seconds < 1.0) == (0, True), agent.log


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"learning-rate": 1e30}, "loss"),
        ({"epochs": 0}, "'epochs'"),
        ({"learning-rate": "fast"}, "'learning-rate'"),
    ],
)
def test_a_task_that_cannot_be_done_is_answered_with_the_reason(
    config: dict[str, Any],
    reason: str,
    coordinator: Fixture,
    offered: dict[str, BlobReference],
    make_agent: Fixture,
) -> None:
    make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "t", config={"epochs": 3} | config)
    assert reason in coordinator.wait(Failed, task="t").reason


def test_a_program_that_is_none_is_answered_with_the_reason(
    coordinator: Fixture, offered: dict[str, BlobReference], make_agent: Fixture
) -> None:
    make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered | {"program": coordinator.offer(b"no model " * 500)}, "t")
    assert "cannot" in coordinator.wait(Failed, task="t").reason
    ask(coordinator, offered, "t2")
    coordinator.wait(Update, task="t2")


def test_a_finished_update_outlives_the_broker(model: Fixture, make_agent: Fixture, broker: Fixture) -> None:
    coordinator = broker.coordinator()
    offered = {"program": coordinator.offer(model.program), "weights": coordinator.offer(model.weights)}
    make_agent()
    coordinator.wait(DeviceState, online=True)
    ask(coordinator, offered, "t")
    update = coordinator.wait(Update, task="t")
    broker.restart()
    again = broker.coordinator(epoch=2)
    repeated = again.wait(Update, task="t")
    assert (repeated.weights, repeated.incarnation) == (update.weights, update.incarnation)
    again.collect(repeated)
    again.settle(repeated)
    again.wait(DeviceState, tasks=())


def test_a_device_that_is_not_ready_accepts_the_task_and_says_what_it_waits_for(
    coordinator: Fixture, offered: dict[str, BlobReference], make_agent: Fixture
) -> None:
    agent = make_agent(readiness=ReadinessPolicy(samples=81))
    born = coordinator.wait(DeviceState, online=True)
    assert born.capabilities["waits_for"] == "81 samples, has 80"
    ask(coordinator, offered, "t")
    coordinator.wait(Accepted, task="t")
    assert coordinator.wait(DeviceState, tasks=("t",)).capabilities["waits_for"] == "81 samples, has 80"
    samples = agent.path / "samples" / "train.npz"
    y = np.zeros(81, np.int32)
    np.savez(samples, x=np.zeros((81, 8, 8, 1), np.float32), y=y)
    assert coordinator.wait(Update, task="t", seconds=30.0).num_examples == 81
