"""Weights on the wire: safetensors, named by Keras's variable paths, in the codec that their blob names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import TensorsError
from .messages import Codec

Weights = dict[str, NDArray[np.float32]]

# The type on the wire. Every codec decodes to float32: a strategy never sees how a device sent its update.
DTYPES: dict[Codec, type[np.float32] | type[np.float16]] = {"f32": np.float32, "f16": np.float16}


def encode(weights: Mapping[str, NDArray[np.float32]], codec: Codec = "f32") -> bytes:
    """Float32 tensors of any shape by name, as safetensors bytes.

    Raises:
        TensorsError: A number does not fit the codec: float16 ends at 65,504.
    """
    dtype = DTYPES.get(codec)
    if dtype is None:
        raise TensorsError(f"Expected a codec for tensors out of {', '.join(DTYPES)}, received {codec!r}.")
    tensors = {}
    for name, value in weights.items():
        with np.errstate(over="ignore"):
            tensors[name] = np.asarray(value, dtype, order="C")
        if dtype is not np.float32 and np.isinf(tensors[name]).any():
            raise TensorsError(f"Expected numbers that fit {codec} in tensor {name!r}, received larger ones.")
    return save(tensors)


def decode(data: bytes) -> Weights:
    """The tensors in safetensors bytes of any codec, as float32.

    Raises:
        TensorsError: The bytes are no safetensors file of float32 or float16 tensors.
    """
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise TensorsError(
            f"Expected safetensors, received {len(data)} bytes that are none: {error}."
        ) from error
    for name, value in weights.items():
        if value.dtype not in (np.float32, np.float16):
            raise TensorsError(f"Expected float32 or float16 in tensor {name!r}, received {value.dtype}.")
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}


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
            f"Expected the model's weights, received them without {missing[:8]} and with {unknown[:8]}."
        )
    for name, expected in template.items():
        value = weights[name]
        if value.shape != expected.shape:
            raise TensorsError(f"Expected shape {expected.shape} of tensor {name!r}, received {value.shape}.")
        if not np.isfinite(value).all():
            raise TensorsError(f"Expected finite numbers in tensor {name!r}, received NaN or infinity.")
    return {name: weights[name] for name in template}
