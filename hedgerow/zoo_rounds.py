"""Federated rounds of a verification: the devices in a process of their own, which has no TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .errors import InterpreterError
from .models.datasets import Dataset
from .zoo_device import Answer, Plan

_TIMEOUT_SECONDS = 1800


def federate(
    folder: Path,
    file: Path,
    start: list[Any],
    devices: list[Dataset],
    *,
    rounds: int,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
    timed_steps: int = 0,
) -> tuple[list[Any], Answer]:
    """Refines weights on devices; see `zoo_device`.

    Args:
        folder: For what goes to the devices and comes back.
        file: The trainable file.
        start: The weights that the rounds begin with.
        devices: Each one's training examples.
        rounds: Of federated averaging.
        epochs: On each device in each round.
        learning_rate: Of every step.
        seed: Of the order of the examples.
        timed_steps: How many steps to measure.

    Returns:
        The weights after the rounds, and what the devices say.

    Raises:
        InterpreterError: The process ended without an answer, or took half an hour.
    """
    for number, data in enumerate(devices):
        inputs = {f"x{place}": array for place, array in enumerate((data.x, *data.more))}
        np.savez(folder / f"device-{number}.npz", y=data.y, **inputs)
    np.savez(folder / "start.npz", **{f"w{place}": value for place, value in enumerate(start)})
    plan = Plan(
        file=str(file), devices=len(devices), rounds=rounds, epochs=epochs, learning_rate=learning_rate,
        seed=seed, timed_steps=timed_steps,
    )  # fmt: skip
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    answer, log = folder / "answer.json", folder / "device.log"
    answer.unlink(missing_ok=True)
    code = _run([sys.executable, "-m", "hedgerow.child", "hedgerow.zoo_device", str(folder)], log)
    if code != 0 or not answer.is_file():
        words = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
        raise InterpreterError(f"Expected the devices to train on {file.name}, received: {words[-1][:500]}.")
    with np.load(folder / "weights.npz") as stored:
        weights = [stored[f"w{place}"] for place in range(len(stored.files))]
    return weights, msgspec.json.decode(answer.read_bytes(), type=Answer)


def _run(command: list[str], log: Path) -> int:
    """Runs a command whose standard input stays open as long as we live; its exit code.

    Raises:
        InterpreterError: It took half an hour.
    """
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream) as process,
    ):
        try:
            return process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise InterpreterError(
                f"Expected the devices to be done in {_TIMEOUT_SECONDS} s, received nothing."
            ) from None
