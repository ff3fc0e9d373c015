"""The running mean against hand-worked numbers and numpy's own average."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.coordinator.aggregation import RunningMean


def test_by_hand() -> None:
    mean = RunningMean.empty()
    mean = mean.fold({"w": np.array([1.0, 2.0], np.float32)}, {"loss": 4.0, "only-here": 1.0}, 1)
    mean = mean.fold({"w": np.array([5.0, 10.0], np.float32)}, {"loss": 0.0}, 3)
    np.testing.assert_array_equal(mean.weights()["w"], np.array([4.0, 8.0], np.float32))
    assert mean.metrics() == {"loss": 1.0}
    assert (mean.num_examples, mean.terms) == (4, 2)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2**31)), min_size=1, max_size=8))
def test_equal_to_numpy_in_any_order(terms: list[tuple[int, int]]) -> None:
    arrays = [np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32) for _, seed in terms]
    counts = [count for count, _ in terms]
    mean, back = RunningMean.empty(), RunningMean.empty()
    for array, count in zip(arrays, counts, strict=True):
        mean = mean.fold({"w": array}, {}, count)
    for array, count in zip(arrays[::-1], counts[::-1], strict=True):
        back = back.fold({"w": array}, {}, count)
    expected = np.average(np.stack(arrays).astype(np.float64), axis=0, weights=counts)
    np.testing.assert_allclose(mean.weights()["w"], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(mean.weights()["w"], back.weights()["w"], rtol=2e-7, atol=1e-9)
