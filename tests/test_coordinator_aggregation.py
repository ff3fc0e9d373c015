"""The running mean against hand-worked numbers, numpy's own average and Flower's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.coordinator import flower
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


def test_one_mean_reply_gives_every_mean_type_strategy_what_all_replies_give() -> None:
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    grid = flower.NodeGrid(lambda: [1 << 33, 2 << 33, 3 << 33])
    for cls in flower.MEAN_TYPE:
        one, every = flower.make_strategy(cls.__name__, {}), flower.make_strategy(cls.__name__, {})
        arrays = flower.to_arrays(start)
        for round_ in (1, 2, 3):
            answers = [
                (
                    {k: v + rng.normal(size=v.shape).astype(np.float32) for k, v in start.items()},
                    float(i),
                    10 * i,
                )
                for i in (1, 2, 3)
            ]
            results = []
            for strategy, folded in ((one, True), (every, False)):
                messages = list(strategy.configure_train(round_, arrays, flower.to_config({}), grid))
                if folded:
                    mean = RunningMean.empty()
                    for weights, loss, count in answers:
                        mean = mean.fold(weights, {"train_loss": loss}, count)
                    replies = [
                        flower.make_reply(messages[0], mean.weights(), mean.metrics(), mean.num_examples)
                    ]
                else:
                    replies = [
                        flower.make_reply(message, weights, {"train_loss": loss}, count)
                        for message, (weights, loss, count) in zip(messages, answers, strict=True)
                    ]
                results.append(strategy.aggregate_train(round_, replies))
            (arrays_one, metrics_one), (arrays_every, metrics_every) = results
            assert arrays_one is not None
            assert arrays_every is not None
            for name, value in flower.from_arrays(arrays_every).items():
                actual = flower.from_arrays(arrays_one)[name]
                np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6, err_msg=cls.__name__)
            np.testing.assert_allclose(metrics_one["train_loss"], metrics_every["train_loss"], rtol=1e-6)
            arrays = arrays_every
