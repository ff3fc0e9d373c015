"""The devices of a zoo verification: one process without TensorFlow that trains as many devices as there are.

`python -m hedgerow.zoo_device FOLDER` reads `plan.json`, `start.npz` and each device's examples from the
folder, runs rounds of federated averaging on a device runtime, and leaves `weights.npz` and `answer.json`
there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .edge import Trainer
from .hardware.process import peak_mib, resident_mib

Weights = list[NDArray[Any]]

_WARM_UP_STEPS = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices are to do.

    Attributes:
        file: The trainable file.
        devices: How many there are; device i has `device-i.npz`.
        rounds: Rounds of federated averaging.
        epochs: On each device in each round.
        learning_rate: Of every step.
        seed: Of the order of the examples.
        timed_steps: How many steps of one batch to measure, after the rounds.
    """

    file: str
    devices: int
    rounds: int
    epochs: int
    learning_rate: float
    seed: int
    timed_steps: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices did.

    Attributes:
        runtime: What they ran on.
        loss: Mean training loss over the devices in each round.
        undone: Steps that were not finite.
        step_ms: Median of the timed steps; 0 without any.
        peak_mib: The most memory that a device's process had.
        model_mib: What of it came with the model.
    """

    runtime: str
    loss: tuple[float, ...]
    undone: int
    step_ms: float
    peak_mib: float
    model_mib: float


def run(folder: Path) -> None:
    """Carries out the plan in a folder."""
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)
    before = resident_mib()
    with Trainer(plan.file) as trainer:
        weights = _read(folder / "start.npz")
        losses, undone = [], 0
        for number in range(plan.rounds):
            updates: list[tuple[int, Weights]] = []
            total = 0.0
            for device in range(plan.devices):
                x, y = _examples(folder / f"device-{device}.npz")
                _set(trainer, weights)
                trainer.reset()
                seed = plan.seed + 1000 * number + device
                result = trainer.fit(x, y, epochs=plan.epochs, learning_rate=plan.learning_rate, seed=seed)
                updates.append((len(y), list(trainer.get_weights().values())))
                undone += result.undone
                total += result.loss[-1]
            weights = average(updates)
            losses.append(total / plan.devices)
        times = _time_steps(trainer, folder, plan)
        runtime = trainer.runtime
    np.savez(folder / "weights.npz", **{f"w{place}": value for place, value in enumerate(weights)})
    answer = Answer(
        runtime=runtime,
        loss=tuple(losses),
        undone=undone,
        step_ms=1e3 * float(np.median(times)) if times else 0.0,
        peak_mib=peak_mib(),
        model_mib=peak_mib() - before,
    )
    (folder / "answer.json").write_bytes(msgspec.json.encode(answer))


def average(updates: list[tuple[int, Weights]]) -> Weights:
    """The mean of weights, each counted as often as its device has examples (McMahan et al. 2017)."""
    examples = sum(count for count, _ in updates)
    parts = zip(*(weights for _, weights in updates), strict=True)
    return [
        sum((count / examples) * part for (count, _), part in zip(updates, same, strict=True)).astype(
            "float32"
        )
        for same in parts
    ]


def _time_steps(trainer: Trainer, folder: Path, plan: Plan) -> list[float]:
    x, y = _examples(folder / "device-0.npz")
    rows = np.resize(np.arange(len(y)), trainer.batch_size)
    times = []
    for step in range(plan.timed_steps + _WARM_UP_STEPS if plan.timed_steps else 0):
        began = time.perf_counter()
        trainer.fit({name: one[rows] for name, one in x.items()}, y[rows], learning_rate=0.0, shuffle=False)
        if step >= _WARM_UP_STEPS:
            times.append(time.perf_counter() - began)
    return times


def _set(trainer: Trainer, weights: Weights) -> None:
    trainer.set_weights(dict(zip(trainer.get_weights(), weights, strict=True)))


def _examples(path: Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """The inputs by signature name, `x` alone or `x0`, `x1` and so on, and the answers."""
    with np.load(path) as stored:
        inputs = {name: stored[name] for name in stored.files if name != "y"}
        return ({"x": inputs["x0"]} if len(inputs) == 1 else inputs), stored["y"]


def _read(path: Path) -> Weights:
    with np.load(path) as stored:
        return [stored[f"w{place}"] for place in range(len(stored.files))]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
