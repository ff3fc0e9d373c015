"""Examples in memory, with what is right for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import errors

Array = npt.NDArray[Any]

_NUMBERS = (np.float32, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples of a task.

    Attributes:
        x: float32 or int32 [N, ...], the model's first input, one example per row.
        y: int32 or float32 [N, ...], what is right: a class in [0, len(labels)) of each example, of each
            pixel or of each word, or numbers.
        labels: The name of each class; empty where `y` holds no classes.
        groups: int64 [N], whom each example comes from (a person, a speaker), or None where nobody is known.
        more: The further inputs of a model that has several, in Keras's order.

    Raises:
        errors.DatasetError: The arrays have different lengths or types, or a class has no name.
    """

    x: Array
    y: Array
    labels: tuple[str, ...] = ()
    groups: npt.NDArray[np.int64] | None = None
    more: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        if any(array.dtype not in _NUMBERS for array in (self.x, *self.more, self.y)):
            received = ", ".join(str(array.dtype) for array in (self.x, *self.more, self.y))
            raise errors.DatasetError(
                f"Expected float32 or int32 examples and answers, received {received}.",
                remedy="Convert the arrays with astype('float32') or astype('int32').",
            )
        if any(len(array) != len(self.x) for array in (self.y, *self.more)):
            raise errors.DatasetError(
                f"Expected one label per example, received {self.x.shape[0]} examples and labels of shape "
                f"{self.y.shape}."
            )
        if self.groups is not None and self.groups.shape != (len(self.y),):
            raise errors.DatasetError(
                f"Expected one group per example, received {len(self.y)} examples and groups of shape "
                f"{self.groups.shape}."
            )
        if self.labels and self.y.dtype != np.int32:
            raise errors.DatasetError(f"Expected int32 labels of named classes, received {self.y.dtype}.")
        if self.labels and self.y.size and not 0 <= self.y.min() <= self.y.max() < len(self.labels):
            raise errors.DatasetError(
                f"Expected classes 0 to {len(self.labels) - 1}, received {self.y.min()} to {self.y.max()}."
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def inputs(self) -> Array | list[Array]:
        """What `keras.Model.fit` and `predict` take: `x`, or a list where the model has several inputs."""
        return [self.x, *self.more] if self.more else self.x

    def take(self, indices: npt.NDArray[np.intp]) -> Dataset:
        """The examples at these indices, in their order."""
        groups = None if self.groups is None else self.groups[indices]
        more = tuple(array[indices] for array in self.more)
        return Dataset(self.x[indices], self.y[indices], self.labels, groups, more)

    def counts(self) -> npt.NDArray[np.int64]:
        """How many answers each class has, int64 [len(labels)]."""
        if not self.labels:
            return np.zeros(0, np.int64)
        return np.bincount(self.y.reshape(-1), minlength=len(self.labels)).astype(np.int64)


def join(datasets: list[Dataset]) -> Dataset:
    """The examples of several data sets of one task, one after the other."""
    first = datasets[0]
    groups = [one.groups for one in datasets if one.groups is not None]
    return Dataset(
        np.concatenate([one.x for one in datasets]),
        np.concatenate([one.y for one in datasets]),
        first.labels,
        np.concatenate(groups) if len(groups) == len(datasets) else None,
        tuple(np.concatenate(arrays) for arrays in zip(*(one.more for one in datasets), strict=True)),
    )
