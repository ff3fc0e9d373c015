"""Metrics are weighted sums that add up exactly, and equal Keras's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow.errors import LossError
from hedgerow.models import losses, metrics


def total(metric: metrics.Metric, y, output, weight, **options) -> float:
    sums = metric.sums(tf.constant(y), tf.constant(output), tf.constant(weight, tf.float32), **options)
    assert list(sums) == [f"{metric.name}_sum"]
    return float(sums[f"{metric.name}_sum"])


def of(loss_name: str) -> metrics.Metric:
    return metrics.for_loss(losses.get(loss_name))[0]


def test_accuracies_by_hand() -> None:
    output = np.float32([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.5, 0.0]])
    weight = np.float32([1, 2, 4, 8])
    # Right, wrong, right, and a tie that goes to the first class.
    assert total(of("sparse_categorical_crossentropy"), np.int32([1, 1, 2, 0]), output, weight) == 13
    assert total(of("categorical_crossentropy"), np.eye(3, dtype="f")[[1, 1, 2, 0]], output, weight) == 13
    yes = np.float32([[1, 0], [1, 1]])
    assert total(of("binary_crossentropy"), yes, np.float32([[0.9, 0.6], [0.51, 0.5]]), [1, 2]) == 1.5
    logits = np.float32([[0.2, -0.1], [0.1, 0.0]])
    assert total(of("binary_crossentropy"), yes, logits, [1, 2], from_logits=True) == 2.0


def test_top_accuracy_by_hand() -> None:
    loss = losses.get("sparse_categorical_crossentropy")
    output = np.float32([[0.1, 0.2, 0.3, 0.4]] * 4)
    labels = np.int32([0, 1, 2, 3])
    for k in (1, 2, 3, 4):
        assert total(metrics.get("top_accuracy", loss, k=k), labels, output, np.ones(4)) == k
    assert total(metrics.get("top_accuracy", loss, k=4), np.int32([-1, 7, 0, 0]), output, np.ones(4)) == 2


@pytest.mark.parametrize("shape", [(7, 4), (7, 3, 4), (7, 2, 3, 2, 4)])
@pytest.mark.parametrize(
    ("loss_name", "kind"),
    [
        ("sparse_categorical_crossentropy", keras.metrics.SparseCategoricalAccuracy),
        ("categorical_crossentropy", keras.metrics.CategoricalAccuracy),
        ("binary_crossentropy", keras.metrics.BinaryAccuracy),
        ("mean_squared_error", keras.metrics.MeanAbsoluteError),
        ("mean_absolute_error", keras.metrics.MeanSquaredError),
    ],
)
def test_sums_over_batches_equal_keras(
    loss_name: str, kind: type[keras.metrics.Metric], shape: tuple[int, ...]
) -> None:
    """Weighted examples in batches of 3, the last one short and filled up with garbage."""
    random = np.random.default_rng(0)
    output = random.uniform(size=shape).astype(np.float32)
    weight = random.uniform(0.5, 2, shape[0]).astype(np.float32)
    y = random.integers(0, 2, shape).astype(np.float32)
    if loss_name == "sparse_categorical_crossentropy":
        y = random.integers(0, shape[-1], shape[:-1]).astype(np.int32)
    if loss_name == "categorical_crossentropy":
        y = np.eye(shape[-1], dtype=np.float32)[random.integers(0, shape[-1], shape[:-1])]
    metric, reference = of(loss_name), kind()
    reference.update_state(y, output, sample_weight=weight)
    metric_sum = weight_sum = example_count = 0.0
    for start in (0, 3, 6):
        short = max(0, start + 3 - shape[0])
        rows = slice(start, start + 3)
        mask = np.pad(weight[rows], (0, short))
        filler = np.full((short, *shape[1:]), np.nan, np.float32)
        y_filler = np.full((short, *y.shape[1:]), 99).astype(y.dtype)
        batch = np.concatenate([y[rows], y_filler]), np.concatenate([output[rows], filler])
        metric_sum += total(metric, *batch, mask)
        totals = metrics.totals(tf.constant(mask))
        weight_sum += float(totals["weight_sum"])
        example_count += float(totals["example_count"])
    assert example_count == shape[0]
    np.testing.assert_allclose(metric_sum / weight_sum, reference.result(), rtol=1e-6)


def test_counts_add_up_exactly() -> None:
    """Whole numbers below 2^24 are exact in float32, so that 0/1 metrics of unit weights lose nothing."""
    random = np.random.default_rng(0)
    metric = of("sparse_categorical_crossentropy")
    output, y = random.normal(size=(64, 16, 3)).astype(np.float32), random.integers(0, 3, (64, 16))
    hits = sum(total(metric, y[i].astype(np.int32), output[i], np.ones(16)) for i in range(64))
    assert hits == (output.argmax(-1) == y).sum()


def test_metrics_go_with_their_loss() -> None:
    assert [metric.name for metric in metrics.for_loss(losses.get("huber"))] == [
        "mean_absolute_error",
        "mean_squared_error",
    ]
    assert metrics.for_loss(losses.get("triplet")) == ()
    assert metrics.get("mae", losses.get("mse")) == metrics.MeanAbsoluteError()
    assert metrics.get("accuracy", losses.get("binary_crossentropy")) == metrics.BinaryAccuracy()
    for name, loss in (("accuracy", "mse"), ("mae", "ctc"), ("f1", "mse"), ("top_accuracy", "mse")):
        with pytest.raises(LossError, match=f"{loss if loss != 'mse' else 'mean'}.*'{name}'"):
            metrics.get(name, losses.get(loss))
