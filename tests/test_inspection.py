"""The cost of a signature, worked out by hand on tiny graphs."""

from __future__ import annotations

import pytest
import tensorflow as tf

from hedgerow import errors
from hedgerow.hardware.inspection import inspect_file
from hedgerow.models.trainable.conversion import convert


def test_a_dense_layer_counts_its_products_and_its_tensors() -> None:
    specs = {"x": tf.TensorSpec([2, 3], name="x"), "w": tf.TensorSpec([3, 4], name="w")}

    def dense(x: tf.Tensor, w: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.tanh(tf.matmul(x, w))}

    function = tf.function(dense, autograph=False).get_concrete_function(**specs)
    report = inspect_file(convert(tf.Module(), {"dense": function})).signatures["dense"]
    assert report.operators == {"BATCH_MATMUL": 1, "TANH": 1}
    assert report.flops == 2 * 2 * 3 * 4 + 8
    # x, w and the product are alive at once: 6 + 12 + 8 floats.
    assert report.peak_bytes == 4 * (6 + 12 + 8)
    assert report.weight_bytes == 0


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(errors.ModelFileError, match="TFL3"):
        inspect_file(b"0123456789")
