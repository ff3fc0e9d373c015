"""Training a model on a device: numpy in, numpy out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError, TrainingDataError, UsageError
from ..hardware.flatbuffer import read_metadata
from ..hardware.interpreter import SignatureSpec, load
from ..hardware.runtime import RuntimeName

Array = npt.NDArray[Any]
Arrays = Array | Sequence[Array] | Mapping[str, Array]
# So many examples are looked at at a time.
_ROWS = 256
_SIGNATURES = ("infer", "train", "evaluate", "get_weights", "set_weights", "reset")


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training run did.

    Attributes:
        loss: Mean training loss of each epoch, as it was while the weights changed.
        steps: Steps made, those undone included.
        examples: Examples of non-zero weight seen, over all epochs.
        undone: Steps that were not finite and left the weights as they were.
    """

    loss: tuple[float, ...]
    steps: int
    examples: int
    undone: int


class FitProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a training is, between two steps.

    Attributes:
        steps: Steps made.
        losses: Mean loss of each epoch that is over.
        total: Weighted sum of the losses in the epoch at hand.
        weight: Sum of the weights in it.
        undone: Steps that were not finite.
    """

    steps: int = 0
    losses: tuple[float, ...] = ()
    total: float = 0.0
    weight: float = 0.0
    undone: int = 0

    def after(self, loss: float, rows: int, *, finite: bool) -> FitProgress:
        """One step further."""
        return FitProgress(
            steps=self.steps + 1,
            losses=self.losses,
            total=self.total + (loss * rows if finite else 0.0),
            weight=self.weight + (rows if finite else 0),
            undone=self.undone + (not finite),
        )

    def after_epoch(self) -> FitProgress:
        """The epoch at hand is over."""
        mean = self.total / self.weight if self.weight else float("nan")
        return FitProgress(steps=self.steps, losses=(*self.losses, mean), undone=self.undone)


@dataclass(frozen=True, slots=True)
class _Batch:
    """One batch of exactly the file's size; rows past ``rows`` repeat others and have weight 0."""

    tensors: dict[str, Array]
    rows: int


class Trainer:
    """A trainable ``.tflite`` file, loaded.

    Args:
        source: Path or bytes of a file that ``hedgerow.models.export_trainable`` wrote.
        runtime: ``auto``, ``tflite`` or ``litert``; see :func:`hedgerow.hardware.interpreter.load`.
        num_threads: Threads of the CPU kernels.

    Attributes:
        batch_size: Rows of a batch.
        variants: Names of the training signatures.

    Raises:
        ModelFileError: The file cannot be read or has no trainable graph.
    """

    def __init__(
        self, source: str | Path | bytes, *, runtime: RuntimeName = "auto", num_threads: int = 1
    ) -> None:
        self._interpreter = load(source, runtime=runtime, num_threads=num_threads)
        self._signatures = self._interpreter.signatures()
        missing = [name for name in _SIGNATURES if name not in self._signatures]
        content = read_metadata(source, "hedgerow.trainable")
        if missing or content is None:
            self._interpreter.close()
            raise ModelFileError(
                f"Expected a trainable file, received one with the signatures {sorted(self._signatures)}.",
                remedy="Write it with hedgerow export-trainable.",
            )
        self._description: dict[str, Any] = msgspec.json.decode(content)
        self.batch_size = int(self._description["batch_size"])
        self.variants: tuple[str, ...] = tuple(self._description["trained"])

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return str(self._interpreter.runtime)

    def fit(
        self,
        x: Arrays,
        y: Arrays,
        *,
        epochs: int = 1,
        learning_rate: float | None = None,
        sample_weight: Array | None = None,
        seed: int = 0,
        shuffle: bool = True,
        proximal_mu: float = 0.0,
        on_step: Callable[[FitProgress], None] | None = None,
        variant: str = "train",
        progress: FitProgress | None = None,
    ) -> FitResult:
        """Trains on examples of any number.

        Args:
            x: Examples; a list, or a mapping by signature name, where the model has several inputs.
            y: Targets; likewise.
            epochs: Passes over the examples.
            learning_rate: Step size; None is the optimizer's default.
            sample_weight: One weight per example, float.
            seed: Seed of the shuffling and of the model's own randomness (dropout).
            shuffle: Whether each epoch has an order of its own.
            proximal_mu: Strength of FedProx's pull towards the weights last set.
            on_step: Called after each step.
            variant: Which training signature.
            progress: Where a training with the same arguments stood when the weights and slots now set were
                read; it goes on from there with the numbers that it would have had.

        Raises:
            TrainingDataError: An array has a wrong shape, type or value.
            UsageError: An option is out of its range or not in the file.
        """
        if variant not in self.variants:
            raise UsageError(
                f"Expected one of the variants {', '.join(self.variants)}, received {variant!r}."
            )
        if epochs < 1:
            raise UsageError(f"Expected at least one epoch, received {epochs}.")
        data = self._checked(variant, x, y, sample_weight)
        spec = self._signatures[variant]
        rate = self._description["learning_rate"] if learning_rate is None else learning_rate
        options = _options(spec, {"learning_rate": rate, "proximal_mu": proximal_mu})
        generator = Random(seed)
        now, index = progress or FitProgress(), 0
        for epoch in range(epochs):
            order = _shuffled(_length(data), generator) if shuffle else np.arange(_length(data))
            for rows in self._rows(order):
                drawn = generator.getrandbits(31) if "seed" in spec.inputs else None
                index += 1
                if index <= now.steps:
                    continue
                batch = self._batch(spec, data, rows)
                tensors = batch.tensors | options
                if drawn is not None:
                    tensors["seed"] = np.asarray(drawn, np.int32)
                outputs = self._run(variant, tensors)
                finite = float(outputs["finite"]) != 0.0
                now = now.after(float(outputs["loss"]), batch.rows, finite=finite)
                if on_step is not None:
                    on_step(now)
            if epoch >= len(now.losses):
                now = now.after_epoch()
        examples = epochs * int(np.count_nonzero(data["weight"]))
        return FitResult(now.losses, now.steps, examples, now.undone)

    def evaluate(self, x: Arrays, y: Arrays, *, sample_weight: Array | None = None) -> dict[str, float]:
        """Loss and metrics over all examples.

        Returns:
            ``loss``, ``num_examples`` and a mean for every metric in the file.
        """
        data = self._checked("evaluate", x, y, sample_weight)
        sums: dict[str, float] = {}
        for batch in self._batches(self._signatures["evaluate"], data):
            for key, value in self._run("evaluate", batch.tensors).items():
                sums[key] = sums.get(key, 0.0) + float(value)
        weight, count = sums.pop("weight_sum"), sums.pop("example_count")
        means = {"loss": sums.pop("loss_sum") / count} if count else {}
        means |= {key.removesuffix("_sum"): value / weight for key, value in sums.items() if weight}
        return means | {"num_examples": count}

    def predict(self, x: Arrays) -> Array | dict[str, Array]:
        """The model's output for examples of any number; a mapping by name where it has several outputs."""
        spec = self._signatures["infer"]
        data = _named(x, "x", [name for name in spec.inputs if name.startswith("x")])
        data = _checked_arrays(spec, data)
        parts: dict[str, list[Array]] = {name: [] for name in spec.outputs}
        for batch in self._batches(spec, data):
            for name, value in self._run("infer", batch.tensors).items():
                parts[name].append(value[: batch.rows])
        outputs = {name: np.concatenate(pieces) for name, pieces in parts.items()}
        return outputs["output"] if list(outputs) == ["output"] else outputs

    def get_weights(self) -> dict[str, Array]:
        """Every weight by Keras path, in Keras's order."""
        weights = self._run("get_weights", {})
        return {path: weights[path] for path in self._description["weights"]}

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        """Replaces every weight, exactly, and the anchor of the proximal term."""
        self._run("set_weights", dict(weights))

    def reset(self) -> None:
        """Makes the optimizer forget its momenta."""
        self._run("reset", {})

    @property
    def resumable(self) -> bool:
        """Whether all that training changes can be read and set: weights, and slots if there are any."""
        return "get_slots" in self._signatures or int(self._run("reset", {})["count"]) == 0

    def get_slots(self) -> dict[str, Array]:
        """The optimizer's momenta and the like, by their names in the file; empty where it has none."""
        slots = self._run("get_slots", {}) if "get_slots" in self._signatures else {}
        return {name: np.asarray(value) for name, value in slots.items()}

    def set_slots(self, slots: Mapping[str, Array]) -> None:
        """Replaces them, exactly."""
        if "set_slots" in self._signatures:
            self._run("set_slots", dict(slots))

    def trained_by(self, variant: str) -> int:
        """How many weights a training signature changes."""
        specs = self._signatures["get_weights"].outputs
        return sum(math.prod(specs[path].shape) for path in self._description["trained"][variant])

    def close(self) -> None:
        """Frees the model's memory."""
        self._interpreter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, signature: str, tensors: dict[str, Array]) -> dict[str, Array]:
        return self._interpreter.run(signature, tensors)

    def _checked(self, signature: str, x: Arrays, y: Arrays, weight: Array | None) -> dict[str, Array]:
        spec = self._signatures[signature]
        data = _named(x, "x", [name for name in spec.inputs if name[:1] == "x"])
        data |= _named(y, "y", [name for name in spec.inputs if name[:1] == "y"])
        rows = len(next(iter(data.values())))
        data["weight"] = np.ones(rows, np.float32) if weight is None else np.asarray(weight)
        data = _checked_arrays(spec, data)
        for name, count in self._description["labels"].items():
            labels = data[name]
            if count is not None and (labels.min() < 0 or labels.max() >= count):
                raise TrainingDataError(
                    f"Expected labels {name!r} from 0 to {count - 1}, "
                    f"received {labels.min()} to {labels.max()}.",
                    name=name,
                )
        if (data["weight"] < 0).any():
            raise TrainingDataError("Expected sample weights of at least 0, received a negative one.")
        return data

    def _batches(self, spec: SignatureSpec, data: dict[str, Array]) -> Iterator[_Batch]:
        """All of the examples as they come."""
        return (self._batch(spec, data, rows) for rows in self._rows(np.arange(_length(data))))

    def _rows(self, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        return (order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size))

    def _batch(self, spec: SignatureSpec, data: dict[str, Array], rows: npt.NDArray[np.int64]) -> _Batch:
        """One batch; one that is too short repeats its rows with weight 0."""
        taken = np.resize(rows, self.batch_size)
        tensors = {
            name: array[taken].astype(spec.inputs[name].dtype, copy=False) for name, array in data.items()
        }
        if len(rows) < self.batch_size and "weight" in tensors:
            tensors["weight"][len(rows) :] = 0.0
        return _Batch(tensors, len(rows))


def _named(arrays: Arrays, prefix: str, names: list[str]) -> dict[str, Array]:
    names = sorted(names, key=lambda name: int(name[1:] or 0))
    if isinstance(arrays, Mapping):
        given = dict(arrays)
    elif isinstance(arrays, np.ndarray):
        given = {prefix if len(names) == 1 else f"{prefix}0": arrays}
    elif len(names) == 1:
        given = {names[0]: np.asarray(arrays)}
    else:
        given = {f"{prefix}{index}": np.asarray(array) for index, array in enumerate(arrays)}
    if sorted(given) != sorted(names):
        raise TrainingDataError(
            f"Expected the arrays {', '.join(names)}, received {', '.join(map(str, given))}."
        )
    return {name: np.asarray(given[name]) for name in names}


def _checked_arrays(spec: SignatureSpec, data: dict[str, Array]) -> dict[str, Array]:
    """Checks shapes, types and values; what the file wants in another type is cast batch by batch."""
    rows = {name: len(array) if array.ndim else 0 for name, array in data.items()}
    if len(set(rows.values())) != 1 or not next(iter(rows.values())):
        raise TrainingDataError(
            f"Expected the same number of examples, at least one, in all; received {rows}."
        )
    for name, array in data.items():
        expected = spec.inputs[name]
        if array.shape[1:] != expected.shape[1:]:
            raise TrainingDataError(
                f"Expected {name!r} of shape {['rows', *expected.shape[1:]]}, received {list(array.shape)}.",
                name=name,
            )
        kinds = "iub" if expected.dtype.kind in "iu" else "fiub"
        if array.dtype.kind not in kinds:
            raise TrainingDataError(
                f"Expected {name!r} of {expected.dtype}, received {array.dtype}.", name=name
            )
        if expected.dtype.kind == "f" and not _finite(array, expected.dtype):
            raise TrainingDataError(
                f"Expected finite values in {name!r}, received NaN or infinity.", name=name
            )
    return data


def _finite(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether all values are finite in the type that they will be cast to."""
    parts = (array[start : start + _ROWS] for start in range(0, len(array), _ROWS))
    with np.errstate(over="ignore"):
        return all(np.isfinite(part.astype(dtype, copy=False)).all() for part in parts)


def _options(spec: SignatureSpec, values: dict[str, float]) -> dict[str, Array]:
    unknown = [name for name, value in values.items() if name not in spec.inputs and value]
    if unknown:
        raise UsageError(
            f"The file takes no {', '.join(unknown)}; it was exported without.",
            remedy="Export it again with proximal=True.",
        )
    return {name: np.asarray(value, np.float32) for name, value in values.items() if name in spec.inputs}


def _shuffled(length: int, generator: Random) -> npt.NDArray[np.int64]:
    """An order of so many, by a random number drawn for each: numpy's own generators would take 6 MiB."""
    keys = np.frombuffer(generator.randbytes(8 * length), np.uint64)
    return np.argsort(keys, kind="stable")


def _length(data: dict[str, Array]) -> int:
    return len(next(iter(data.values())))
