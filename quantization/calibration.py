"""The examples that the ranges of a model's activations are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, DataShapeError, NotFiniteError
from . import graph

Array = NDArray[Any]


def prepare(model: keras.Model, examples: Array | Sequence[Array]) -> dict[str, Array]:
    """Examples as one array per input of the model, checked.

    Args:
        model: The model that they are for.
        examples: `[N, ...]`, or one such array per input in Keras's order.

    Returns:
        The arrays by the signature's input names, in the model's types.

    Raises:
        CalibrationError: They are none.
        DataShapeError: They have another shape than the inputs.
        NotFiniteError: They hold NaN or infinity.
    """
    arrays = [np.asarray(examples)] if hasattr(examples, "shape") else [np.asarray(one) for one in examples]
    names = graph.input_names(model)
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if [array.shape[1:] for array in arrays] != shapes or len({len(array) for array in arrays}) != 1:
        raise DataShapeError(
            f"Expected examples of the shapes {[('N', *shape) for shape in shapes]}, received "
            f"{[array.shape for array in arrays]}."
        )
    if len(arrays[0]) == 0:
        raise CalibrationError("Expected calibration examples, received none.")
    for name, array in zip(names, arrays, strict=True):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise NotFiniteError(
                f"Expected finite numbers, found NaN or infinity in example {bad} of {name!r}."
            )
    return {
        name: array.astype(keras.backend.standardize_dtype(tensor.dtype))
        for name, array, tensor in zip(names, arrays, model.inputs, strict=True)
    }
