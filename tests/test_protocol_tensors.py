"""Tensors on the wire: bit for bit there and back, and everything else refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import save

from hedgerow.errors import TensorsError
from hedgerow.protocol.tensors import check_like, decode, encode

ARRAYS = npst.arrays(np.float32, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_bit_for_bit(weights: dict[str, np.ndarray]) -> None:
    back = decode(encode(weights))
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    with pytest.raises(TensorsError, match="Expected safetensors"):
        decode(data)


def test_another_type() -> None:
    with pytest.raises(TensorsError, match="Expected float32 or float16 in tensor 'w', received float64"):
        decode(save({"w": np.zeros(2)}))


TEMPLATE = {"b": np.zeros((2, 3), np.float32), "a": np.zeros(1, np.float32)}


def test_the_templates_order() -> None:
    like = check_like({"a": TEMPLATE["a"], "b": TEMPLATE["b"]}, TEMPLATE)
    assert list(like) == ["b", "a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": None}, r"without \['a'\]"),
        ({"c": np.zeros(1, np.float32)}, r"with \['c'\]"),
        ({"a": np.zeros(2, np.float32)}, r"Expected shape \(1,\) of tensor 'a', received \(2,\)"),
        ({"a": np.array([np.nan], np.float32)}, "finite numbers in tensor 'a'"),
        ({"a": np.array([np.inf], np.float32)}, "finite numbers in tensor 'a'"),
    ],
)
def test_what_is_not_like_the_template(change: dict[str, np.ndarray | None], words: str) -> None:
    weights = {name: value for name, value in (TEMPLATE | change).items() if value is not None}
    with pytest.raises(TensorsError, match=words):
        check_like(weights, TEMPLATE)


def test_half_the_bytes_and_float32_again() -> None:
    weights = {"w": np.array([[0.5, -1.25], [3.0, 1e-3]], np.float32)}
    half = decode(encode(weights, "f16"))
    assert half["w"].dtype == np.float32
    np.testing.assert_array_equal(half["w"][0], [0.5, -1.25])
    assert abs(half["w"][1, 1] - 1e-3) < 1e-6


def test_a_number_that_the_codec_cannot_hold() -> None:
    with pytest.raises(TensorsError, match="fit f16 in tensor 'w'"):
        encode({"w": np.array([7e4], np.float32)}, "f16")
    with pytest.raises(TensorsError, match="Expected a codec for tensors"):
        encode({"w": np.array([1.0], np.float32)}, "file")
