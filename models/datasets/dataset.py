"""Labelled examples in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import errors


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples of a classification task, with the names of the classes.

    Attributes:
        x: float32 [N, ...], one example per row.
        y: int32 [N], the class of each example, in [0, len(labels)).
        labels: The name of each class.
        groups: int64 [N], whom each example comes from (a person, a speaker), or None where nobody is known.

    Raises:
        errors.DatasetError: The arrays have different lengths or types, or a class has no name.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    labels: tuple[str, ...]
    groups: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != np.float32 or self.y.dtype != np.int32:
            raise errors.DatasetError(
                f"Expected float32 examples and int32 labels, received {self.x.dtype} and {self.y.dtype}."
            )
        if self.y.shape != self.x.shape[:1]:
            raise errors.DatasetError(
                f"Expected one label per example, received {self.x.shape[0]} examples and labels of shape "
                f"{self.y.shape}."
            )
        if self.groups is not None and self.groups.shape != self.y.shape:
            raise errors.DatasetError(
                f"Expected one group per example, received {len(self.y)} examples and groups of shape "
                f"{self.groups.shape}."
            )
        if len(self.y) and not 0 <= self.y.min() <= self.y.max() < len(self.labels):
            raise errors.DatasetError(
                f"Expected classes 0 to {len(self.labels) - 1}, received {self.y.min()} to {self.y.max()}."
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: npt.NDArray[np.intp]) -> Dataset:
        """The examples at these indices, in their order."""
        groups = None if self.groups is None else self.groups[indices]
        return Dataset(self.x[indices], self.y[indices], self.labels, groups)

    def counts(self) -> npt.NDArray[np.int64]:
        """How many examples each class has, int64 [len(labels)]."""
        return np.bincount(self.y, minlength=len(self.labels)).astype(np.int64)
