"""One task carried out: from a program, weights and the device's own samples to a result."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import MessageError, SamplesError, TrainingDataError
from ..protocol import tensors
from ..protocol.blobs import BlobStore
from ..protocol.messages import Scalar
from . import clipping
from .assignment import Assignment, Bench
from .checkpoint import CheckpointFile
from .personal import PersonalWeights
from .result import Result
from .sample_source import SampleSource
from .samples import Samples
from .trainer import FitProgress, Trainer
from .variant import choose_variant, memory_budget, working_memory

EPOCHS_AT_MOST = 10_000
logger = logging.getLogger(__name__)
Report = Callable[[Literal["train", "evaluate"], float], None]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What the strategy's ConfigRecord says about training, in Flower's spelling with dashes."""

    epochs: int
    learning_rate: float | None
    proximal_mu: float
    variant: str | None

    @classmethod
    def read(cls, config: dict[str, Scalar]) -> TrainingConfig:
        """Reads "epochs", "learning-rate", "proximal-mu" and "variant".

        Where one is missing: 1, the program's own, 0, and what fits into the device's memory.

        Raises:
            MessageError: A value is outside its range.
        """
        epochs = config.get("epochs", 1)
        if isinstance(epochs, bool) or not isinstance(epochs, int) or not 1 <= epochs <= EPOCHS_AT_MOST:
            raise _refused("epochs", f"a whole number from 1 to {EPOCHS_AT_MOST}", epochs)
        variant = config.get("variant")
        if variant is not None and not isinstance(variant, str):
            raise _refused("variant", "a name", variant)
        rate = _number(config, "learning-rate")
        return cls(epochs, rate, _number(config, "proximal-mu") or 0.0, variant or None)


def carry_out(assignment: Assignment, bench: Bench, report: Report) -> Result:
    """Trains or evaluates as the task says.

    Args:
        assignment: The task and its files.
        bench: What to do it with.
        report: Called with the step's name and the fraction done; what it raises ends the work, and a
            training that comes again goes on from there.

    Returns:
        The result; its weights are durable in the blob store that `bench` names.

    Raises:
        HedgerowError: The program, the weights, the samples or the configuration cannot be used, or the
            training diverged.
    """
    started = time.monotonic()
    task = assignment.task
    sent = tensors.decode(Path(assignment.weights).read_bytes())
    personal = PersonalWeights(Path(bench.personal_weights), bench.personal)
    start = personal.merged(sent, task.task)
    work = _Work(assignment, bench, report)
    with SampleSource(Path(bench.samples), bench.sampling) as source:
        trained = None
        if task.phase == "train":
            samples = source.load("train")
            new, metrics = work.train_and_test(samples, _tests(source), start)
            personal.keep(start, new, task.task)
            new = personal.withheld(new, sent)
            norm = _number(task.config, clipping.KEY)
            if norm:
                new, was_longer = clipping.clip(new, sent, norm)
                metrics[clipping.NORM_BIT] = float(was_longer)
            trained = BlobStore(Path(bench.results)).put(tensors.encode(new, task.codec), codec=task.codec)
        else:
            samples = source.load("test")
            metrics = work.evaluate(samples, start)
    return Result(
        task=task.task,
        round=task.round,
        num_examples=len(samples),
        metrics=metrics,
        weights=trained,
        seconds=time.monotonic() - started,
    )


def _tests(source: SampleSource) -> Samples | None:
    try:
        return source.load("test")
    except SamplesError:
        return None


@dataclass(frozen=True, slots=True)
class _Work:
    """The parts of a task. Each loads the program anew: a runtime keeps for ever what its graphs once needed.

    Args:
        assignment: The task and its files.
        bench: What to do it with.
        report: Called with the step's name and the fraction done.
    """

    assignment: Assignment
    bench: Bench
    report: Report

    def train_and_test(
        self, samples: Samples, tests: Samples | None, start: tensors.Weights
    ) -> tuple[tensors.Weights, dict[str, float]]:
        """New weights, and with them what the device's own test samples say before and after."""
        before = self.evaluate(tests, start) if tests is not None else {}
        new, metrics = self._train(samples, start)
        after = self.evaluate(tests, new) if tests is not None else {}
        metrics |= {f"test_{name}_before": value for name, value in before.items()}
        return new, metrics | {f"test_{name}_after": value for name, value in after.items()}

    def evaluate(self, samples: Samples, weights: tensors.Weights) -> dict[str, float]:
        """Loss and metrics of `weights`."""
        self.report("evaluate", 0.0)
        with self._trainer(weights) as trainer:
            metrics = trainer.evaluate(samples.x, samples.y)
        metrics.pop("num_examples", None)
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingDataError(
                f"Expected finite metrics, received {metrics}.",
                remedy="The weights are not of a model that works; look at the rounds before.",
            )
        return metrics

    def _train(self, samples: Samples, start: tensors.Weights) -> tuple[tensors.Weights, dict[str, float]]:
        with self._trainer(start) as trainer:
            metrics = _train(trainer, self.assignment, self.bench, samples, self.report)
            return tensors.check_like(trainer.get_weights(), start), metrics

    @contextlib.contextmanager
    def _trainer(self, weights: tensors.Weights) -> Iterator[Trainer]:
        threads = self.bench.num_threads
        with Trainer(self.assignment.program, runtime=self.bench.runtime, num_threads=threads) as trainer:
            trainer.set_weights(weights)
            yield trainer


def _train(
    trainer: Trainer, assignment: Assignment, bench: Bench, samples: Samples, report: Report
) -> dict[str, float]:
    config = TrainingConfig.read(assignment.task.config)
    steps = config.epochs * -(-len(samples) // trainer.batch_size)
    file = _checkpoint_file(trainer, assignment, bench)
    checkpoint = file.read() if file is not None else None
    if checkpoint is not None:
        logger.info("%s goes on at step %d of %d", assignment.task.task, checkpoint.progress.steps, steps)
        checkpoint.restore(trainer)

    def on_step(progress: FitProgress) -> None:
        if file is not None:
            file.write_if_due(trainer, progress)
        try:
            report("train", progress.steps / steps)
        except BaseException:
            if file is not None:
                file.write(trainer, progress)
            raise

    fitted = trainer.fit(
        samples.x,
        samples.y,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        proximal_mu=config.proximal_mu,
        seed=_seed(assignment),
        on_step=on_step,
        variant=config.variant or _variant(trainer, assignment, bench),
        progress=checkpoint.progress if checkpoint is not None else None,
    )
    loss = fitted.loss[-1]
    if file is not None:
        file.remove()
    if not math.isfinite(loss):
        raise TrainingDataError(
            f"Expected a finite training loss, received {loss} after {fitted.undone} undone steps.",
            remedy="Lower the learning rate of the strategy's train config.",
        )
    return {"train_loss": loss}


def _checkpoint_file(trainer: Trainer, assignment: Assignment, bench: Bench) -> CheckpointFile | None:
    """None for a file from before slots could be read: its training begins anew."""
    if not bench.checkpoints or not trainer.resumable:
        return None
    return CheckpointFile(Path(bench.checkpoints), assignment, seconds=bench.checkpoint_seconds)


def _variant(trainer: Trainer, assignment: Assignment, bench: Bench) -> str:
    if len(trainer.variants) == 1:
        return trainer.variants[0]
    needs = working_memory(Path(assignment.program), trainer.variants)
    trained = {name: trainer.trained_by(name) for name in trainer.variants}
    chosen = choose_variant(needs, trained, memory_budget(bench.memory_limit_mib))
    logger.info("trains with %r, which needs %d KiB", chosen, needs[chosen] >> 10)
    return chosen


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
