"""One task carried out: from a program, weights and the device's own samples to a result."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import MessageError, TrainingDataError
from ..protocol import tensors
from ..protocol.blobs import BlobStore
from ..protocol.messages import Scalar
from . import clipping
from .assignment import Assignment, Bench
from .sample_source import SampleSource
from .samples import Samples
from .session.events import Result
from .trainer import Trainer

EPOCHS_AT_MOST = 10_000
Report = Callable[[Literal["train", "evaluate"], float], None]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What the strategy's ConfigRecord says about training, in Flower's spelling with dashes."""

    epochs: int
    learning_rate: float | None
    proximal_mu: float

    @classmethod
    def read(cls, config: dict[str, Scalar]) -> TrainingConfig:
        """Reads "epochs", "learning-rate" and "proximal-mu"; 1, the program's own and 0 where one is missing.

        Raises:
            MessageError: A value is outside its range.
        """
        epochs = config.get("epochs", 1)
        if isinstance(epochs, bool) or not isinstance(epochs, int) or not 1 <= epochs <= EPOCHS_AT_MOST:
            raise _refused("epochs", f"a whole number from 1 to {EPOCHS_AT_MOST}", epochs)
        rate = _number(config, "learning-rate")
        return cls(epochs, rate, _number(config, "proximal-mu") or 0.0)


def carry_out(assignment: Assignment, bench: Bench, report: Report) -> Result:
    """Trains or evaluates as the task says.

    Args:
        assignment: The task and its files.
        bench: What to do it with.
        report: Called with the step's name and the fraction done; what it raises ends the work.

    Returns:
        The result; its weights are durable in the blob store that `bench` names.

    Raises:
        HedgerowError: The program, the weights, the samples or the configuration cannot be used, or the
            training diverged.
    """
    started = time.monotonic()
    task = assignment.task
    weights = tensors.decode(Path(assignment.weights).read_bytes())
    with Trainer(assignment.program, runtime=bench.runtime, num_threads=bench.num_threads) as trainer:
        trainer.set_weights(weights)
        with SampleSource(Path(bench.samples), bench.sampling) as source:
            samples = source.load("train" if task.phase == "train" else "test")
        trained = None
        if task.phase == "train":
            metrics = _train(trainer, assignment, samples, report)
            new = tensors.check_like(trainer.get_weights(), weights)
            norm = _number(task.config, clipping.KEY)
            if norm:
                new, was_longer = clipping.clip(new, weights, norm)
                metrics[clipping.NORM_BIT] = float(was_longer)
            trained = BlobStore(Path(bench.results)).put(tensors.encode(new, task.codec), codec=task.codec)
        else:
            metrics = _evaluate(trainer, samples, report)
    return Result(
        task=task.task,
        round=task.round,
        num_examples=len(samples),
        metrics=metrics,
        weights=trained,
        seconds=time.monotonic() - started,
    )


def _train(trainer: Trainer, assignment: Assignment, samples: Samples, report: Report) -> dict[str, float]:
    config = TrainingConfig.read(assignment.task.config)
    steps = config.epochs * -(-len(samples) // trainer.batch_size)
    fitted = trainer.fit(
        samples.x,
        samples.y,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        proximal_mu=config.proximal_mu,
        seed=_seed(assignment),
        on_step=lambda step, outputs: report("train", (step + 1) / steps),
    )
    loss = fitted.loss[-1]
    if not math.isfinite(loss):
        raise TrainingDataError(
            f"Expected a finite training loss, received {loss} after {fitted.undone} undone steps.",
            remedy="Lower the learning rate of the strategy's train config.",
        )
    return {"train_loss": loss}


def _evaluate(trainer: Trainer, samples: Samples, report: Report) -> dict[str, float]:
    report("evaluate", 0.0)
    metrics = trainer.evaluate(samples.x, samples.y)
    metrics.pop("num_examples", None)
    if not all(map(math.isfinite, metrics.values())):
        raise TrainingDataError(
            f"Expected finite metrics, received {metrics}.",
            remedy="The weights are not of a model that works; look at the rounds before.",
        )
    return metrics


def _seed(assignment: Assignment) -> int:
    """The shuffling's seed: the same task on the same device trains the same, no two devices alike."""
    task = assignment.task
    text = f"{assignment.device} {task.round} {task.config.get('seed', task.task)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _number(config: dict[str, Scalar], key: str) -> float | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool | str) or not math.isfinite(value) or value < 0:
        raise _refused(key, "a finite number of at least 0", value)
    return float(value)


def _refused(key: str, expected: str, value: Scalar) -> MessageError:
    return MessageError(
        f"Expected {expected} as {key!r} of the task's config, received {value!r}.",
        remedy="Correct the strategy's config.",
    )
