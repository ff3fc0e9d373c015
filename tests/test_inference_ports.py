"""Real numbers straight into the runtime's memory and back: TFLite's definition, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerow.hardware.inference import InPort, OutPort, dequantize, quantize
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
    given = np.array([X], dtype)
    kept = given.copy()
    InPort(spec, lambda: memory).write(given)
    assert memory.tolist() == [codes]
    np.testing.assert_array_equal(memory, quantize(given, spec))
    np.testing.assert_array_equal(given, kept)


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
    read = OutPort(spec, lambda: memory).read()
    assert (read.dtype, read.tolist()) == (np.float32, [numbers])
    np.testing.assert_array_equal(read, dequantize(memory, spec))
    memory[...] = 0
    assert read.tolist() == [numbers]
