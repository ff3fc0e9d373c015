"""Clipping on the device, by hand and against Flower's own."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.supercore.differential_privacy import compute_adaptive_clip_model_update

from hedgerow.edge.clipping import clip

START = {"a": np.array([1.0, 1.0], np.float32), "b": np.array([[0.0]], np.float32)}
NEW = {"a": np.array([4.0, 1.0], np.float32), "b": np.array([[4.0]], np.float32)}


def test_by_hand() -> None:
    clipped, was_longer = clip(NEW, START, 2.5)  # the difference is (3, 0, 4): 5 long
    assert was_longer
    np.testing.assert_array_equal(clipped["a"], [2.5, 1.0])
    np.testing.assert_array_equal(clipped["b"], [[2.0]])
    same, was_longer = clip(NEW, START, 5.0)
    assert not was_longer
    np.testing.assert_array_equal(same["a"], NEW["a"])
    assert clip(START, START, 1.0)[1] is False


@pytest.mark.parametrize("norm", [0.1, 1.0, 100.0])
def test_as_flower_does(norm: float) -> None:
    rng = np.random.default_rng(3)
    start = {name: rng.normal(size=(5, 4)).astype(np.float32) for name in "xy"}
    new = {name: value + rng.normal(size=value.shape).astype(np.float32) for name, value in start.items()}
    expected = [value.copy() for value in new.values()]
    bit = compute_adaptive_clip_model_update(expected, list(start.values()), norm)
    clipped, was_longer = clip(new, start, norm)
    assert was_longer == bit
    for value, reference in zip(clipped.values(), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)
