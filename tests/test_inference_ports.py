"""Real numbers straight into the runtime's memory and back: TFLite's definition, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hedgerow.hardware.inference import dequantize, in_port, out_port, quantize
from hedgerow.hardware.interpreter import TensorSpec

INT8 = TensorSpec((1, 6), np.dtype(np.int8), 0.5, 3)
UINT8 = TensorSpec((1, 6), np.dtype(np.uint8), 0.5, 3)
INT16 = TensorSpec((1, 6), np.dtype(np.int16), 0.5, 0)
PLAIN = TensorSpec((1, 6), np.dtype(np.float32))
# Ties go to the even neighbour before the zero point is added: 0.25 / 0.5 = 0.5 -> 0, 0.75 / 0.5 = 1.5 -> 2.
X = [0.0, 0.25, 0.75, -0.75, 100.0, -100.0]


@pytest.mark.parametrize(
    ("spec", "codes"),
    [
        (INT8, [3, 3, 5, 1, 127, -128]),
        (UINT8, [3, 3, 5, 1, 203, 0]),
        (INT16, [0, 0, 2, -2, 200, -200]),
        (PLAIN, X),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_input_is_quantized_in_place(spec: TensorSpec, codes: list[float], dtype: Any) -> None:
    memory = np.zeros(spec.shape, spec.dtype)
    values = np.array([X], dtype)
    kept = values.copy()
    in_port(spec, lambda: memory)(values)
    assert memory.tolist() == [codes]
    np.testing.assert_array_equal(memory, quantize(values, spec))
    np.testing.assert_array_equal(values, kept)


@given(
    numbers=arrays(np.float32, (1, 6), elements=st.floats(width=32, allow_nan=False)),
    scale=st.floats(2.0**-20, 2.0**10, width=32),
    dtype=st.sampled_from([np.int8, np.uint8, np.int16]),
    data=st.data(),
)
def test_in_place_gives_the_bits_of_the_definition(
    numbers: Any, scale: float, dtype: Any, data: st.DataObject
) -> None:
    limits = np.iinfo(dtype)
    zero_point = data.draw(st.integers(int(limits.min), int(limits.max)))
    # Half of the numbers lie in the middle between two codes, where rounding has to decide.
    ties = data.draw(arrays(np.float32, (1, 6), elements=st.integers(-400, 400).map(lambda code: code + 0.5)))
    values = np.where(data.draw(arrays(bool, (1, 6))), numbers, ties * np.float32(scale))
    spec = TensorSpec((1, 6), np.dtype(dtype), scale, zero_point)
    memory = np.zeros(spec.shape, dtype)
    with np.errstate(over="ignore"):
        in_port(spec, lambda: memory)(values)
        codes = [_code(number, scale, zero_point, limits) for number in values[0]]
    assert memory.tolist() == [codes]


def _code(number: np.float32, scale: float, zero_point: int, limits: Any) -> int:
    """TFLite's definition for one number; Python rounds half to even."""
    quotient = float(number / np.float32(scale))
    bound = max(min(quotient, 1e9), -1e9)
    return max(min(round(bound) + zero_point, int(limits.max)), int(limits.min))


@pytest.mark.parametrize(
    ("spec", "codes", "numbers"),
    [
        (INT8, [-128, -1, 0, 3, 4, 127], [-65.5, -2.0, -1.5, 0.0, 0.5, 62.0]),
        (UINT8, [0, 1, 3, 128, 254, 255], [-1.5, -1.0, 0.0, 62.5, 125.5, 126.0]),
        (INT16, [-32768, -1, 0, 1, 2, 32767], [-16384.0, -0.5, 0.0, 0.5, 1.0, 16383.5]),
        (PLAIN, X, X),
    ],
)
def test_an_output_is_read_as_real_numbers(spec: TensorSpec, codes: list[Any], numbers: list[float]) -> None:
    memory = np.array([codes], spec.dtype)
    read = out_port(spec, lambda: memory)()
    assert (read.dtype, read.tolist()) == (np.float32, [numbers])
    np.testing.assert_array_equal(read, dequantize(memory, spec))
    memory[...] = 0
    assert read.tolist() == [numbers]
