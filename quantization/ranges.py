"""Ranges of activations that round with the least error: one loud example must not cost all others a bit.

The converter takes the smallest and the largest value that calibration has seen. Here each tensor's values
are looked at again: the range is narrowed step by step around zero, values outside are clipped, and the width
with the smallest mean squared error wins. The few examples that a width serves worst do not count, or a
single glitch of a sensor would decide. Source: R. Banner et al., "Post training 4-bit quantization of
convolutional networks for rapid-deployment", NeurIPS 2019, with a search in the place of their formula.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

Array = NDArray[Any]

_STEPS = 255
_WIDTHS = np.geomspace(1.0, 0.02, 60)
_VALUES = 50_000
_OUTLIERS = 0.02
# Places of the fields in their flatbuffer table: tensorflow/lite/schema/schema.fbs.
_MIN, _MAX = 4, 6


def clip(calibrated: bytes, examples: dict[str, Array]) -> bytes:
    """The same calibrated float file with the ranges of :func:`best_range`.

    Args:
        calibrated: A file whose tensors carry the smallest and the largest value they had.
        examples: One array `[N, ...]` per input, by the signature's names or in the file's order.
    """
    edited = bytearray(calibrated)
    graph = schema.Model.GetRootAs(calibrated, 0).Subgraphs(0)
    for place, values in _observe(calibrated, graph, examples).items():
        table = graph.Tensors(place).Quantization()._tab
        for field, value in zip((_MIN, _MAX), best_range(values), strict=True):
            struct.pack_into("<f", edited, table.Vector(table.Offset(field)), value)
    return bytes(edited)


def best_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range around zero, in 255 steps, that gives values the least mean squared error.

    Args:
        values: `[examples, values]`; for each width the worst 2 % of the examples are left out.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high - low <= 0.0:
        return low, high
    errors, candidates = [], [_clipped(low, high, width) for width in _WIDTHS]
    for smallest, largest in candidates:
        step = (largest - smallest) / _STEPS
        rounded = np.clip(np.round(values / step) * step, smallest, largest)
        by_example = np.sort(np.mean((rounded - values) ** 2, axis=1))
        errors.append(float(by_example[: len(values) - math.ceil(_OUTLIERS * (len(values) - 1))].mean()))
    return candidates[int(np.argmin(errors))]


def _clipped(low: float, high: float, width: float) -> tuple[float, float]:
    bound = float(width) * max(-low, high)
    return max(low, -bound), min(high, bound)


def _observe(calibrated: bytes, graph: Any, examples: dict[str, Array]) -> dict[int, NDArray[np.float32]]:
    """Values `[examples, values]` of every input and activation with a range, about 50,000 of each."""
    interpreter = tf.lite.Interpreter(
        model_content=calibrated,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    produced = set(map(int, graph.InputsAsNumpy()))
    for number in range(graph.OperatorsLength()):
        produced |= set(map(int, graph.Operators(number).OutputsAsNumpy()))
    places = [place for place in sorted(produced) if _has_range(graph.Tensors(place))]
    count = len(next(iter(examples.values())))
    rng = np.random.default_rng(0)
    seen: dict[int, list[Array]] = {place: [] for place in places}
    arrays = _in_order(interpreter, examples)
    for number in range(count):
        interpreter.reset_all_variables()
        for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
            interpreter.set_tensor(detail["index"], array[number : number + 1])
        interpreter.invoke()
        for place in places:
            values = interpreter.get_tensor(place).reshape(-1)
            share = max(1, _VALUES // count)
            seen[place].append(values if len(values) <= share else rng.choice(values, share, replace=False))
    return {place: np.stack(values) for place, values in seen.items()}


def _has_range(tensor: Any) -> bool:
    quantization = tensor.Quantization()
    return (
        tensor.Type() == schema.TensorType.FLOAT32
        and quantization is not None
        and quantization.MinLength() == quantization.MaxLength() == 1
    )


def _in_order(interpreter: Any, examples: dict[str, Array]) -> list[Array]:
    """The examples in the order of the file's inputs, which need not be that of the signature's names."""
    signatures = interpreter._get_full_signature_list()
    if not signatures:
        return list(examples.values())
    places = next(iter(signatures.values()))["inputs"]
    by_place = {place: examples[name] for name, place in places.items()}
    return [by_place[detail["index"]] for detail in interpreter.get_input_details()]
