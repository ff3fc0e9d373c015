"""Weights on the wire: safetensors, named by Keras's variable paths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import TensorsError

Weights = dict[str, NDArray[np.float32]]


def encode(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Float32 tensors of any shape by name, as safetensors bytes."""
    return save({name: np.asarray(value, np.float32, order="C") for name, value in weights.items()})


def decode(data: bytes) -> Weights:
    """The tensors in safetensors bytes.

    Raises:
        TensorsError: The bytes are no safetensors file of float32 tensors.
    """
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TensorsError(
            f"Expected safetensors, received {len(data)} bytes that are none: {error}."
        ) from error
    for name, value in weights.items():
        if value.dtype != np.float32:
            raise TensorsError(f"Expected float32 in tensor {name!r}, received {value.dtype}.")
    return weights


def check_like(
    weights: Mapping[str, NDArray[np.float32]], template: Mapping[str, NDArray[np.float32]]
) -> Weights:
    """Returns `weights` in `template`'s order after checking that the two fit.

    Raises:
        TensorsError: A name is missing or unknown, a shape differs, or a value is NaN or infinite.
    """
    missing, unknown = sorted(template.keys() - weights.keys()), sorted(weights.keys() - template.keys())
    if missing or unknown:
        raise TensorsError(
            f"Expected the model's weights, received them without {missing} and with {unknown}."
        )
    for name, expected in template.items():
        value = weights[name]
        if value.shape != expected.shape:
            raise TensorsError(f"Expected shape {expected.shape} of tensor {name!r}, received {value.shape}.")
        if not np.isfinite(value).all():
            raise TensorsError(f"Expected finite numbers in tensor {name!r}, received NaN or infinity.")
    return {name: weights[name] for name in template}
