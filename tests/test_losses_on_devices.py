"""Losses, their gradients and metrics as built-in operators: both runtimes compute what TensorFlow does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hedgerow.hardware.runtime import installed
from hedgerow.models import losses, metrics

BATCH = 6
WEIGHT = np.float32([1, 2, 0, 0.5, 1, 0])

CASES = {
    "sparse": (losses.get("sparse_categorical_crossentropy"), (BATCH, 5), True),
    "sparse_probabilities": (losses.get("sparse_categorical_crossentropy"), (BATCH, 5), False),
    "sparse_sequence": (losses.get("sparse_categorical_crossentropy"), (BATCH, 3, 5), True),
    "sparse_volume": (losses.get("sparse_categorical_crossentropy"), (BATCH, 2, 3, 2, 4), True),
    "categorical": (losses.get("categorical_crossentropy", label_smoothing=0.1), (BATCH, 5), True),
    "categorical_probabilities": (losses.get("categorical_crossentropy"), (BATCH, 4, 5), False),
    "binary": (losses.get("binary_crossentropy"), (BATCH, 1), True),
    "binary_probabilities": (losses.get("binary_crossentropy"), (BATCH, 3, 2), False),
    "mse": (losses.get("mse"), (BATCH, 2, 3, 2, 2), False),
    "mae": (losses.get("mae"), (BATCH, 3), False),
    "huber": (losses.get("huber", delta=0.3), (BATCH, 3, 3), False),
    "cosine": (losses.get("cosine_similarity"), (BATCH, 3, 4), False),
    "triplet": (losses.get("triplet"), (BATCH, 4), False),
    "semihard": (losses.get("triplet", mining="semihard"), (BATCH, 4), False),
    "contrastive": (losses.get("contrastive"), (BATCH, 4), False),
    "ctc": (losses.get("ctc", max_label_length=4), (BATCH, 12, 5), True),
    "ctc_looped": (losses.get("ctc", max_label_length=3), (BATCH, 130, 4), True),
    "ctc_last_blank": (losses.get("ctc", max_label_length=2, blank_index=4), (BATCH, 9, 5), True),
}


class LossModule(tf.Module):
    """One signature per case: the loss, its gradient, and the metrics that go with it."""

    def __init__(self, cases: dict[str, tuple[losses.Loss, tuple[int, ...], bool]]) -> None:
        super().__init__()
        self.traced = {name: self.trace(*case) for name, case in cases.items()}

    @staticmethod
    def trace(loss: losses.Loss, shape: tuple[int, ...], from_logits: bool):
        kinds = metrics.for_loss(loss)
        if loss.name == "sparse_categorical_crossentropy":
            kinds = (*kinds, metrics.get("top_accuracy", loss, k=2))

        @tf.function(
            input_signature=[
                tf.TensorSpec(shape, tf.float32, name="output"),
                tf.TensorSpec(loss.target_spec(shape).shape, loss.target_spec(shape).dtype, name="y"),
                tf.TensorSpec([shape[0]], tf.float32, name="weight"),
            ]
        )
        def evaluate(output: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
            result = losses.weighted(loss, y, output, weight, from_logits=from_logits)
            (gradient,) = tf.gradients(result.mean, [output])
            sums = metrics.totals(weight)
            for metric in kinds:
                sums |= metric.sums(y, output, weight, from_logits=from_logits)
            return {"mean": result.mean, "sum": result.sum, "gradient": gradient, **sums}

        return evaluate


def convert(module: LossModule, file: Path) -> Path:
    concrete = {name: function.get_concrete_function() for name, function in module.traced.items()}
    folder = str(file.with_suffix(""))
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, folder, signatures=concrete, options=options)
    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    return file


def example(loss: losses.Loss, shape: tuple[int, ...], from_logits: bool, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    output = random.normal(size=shape).astype(np.float32)
    if not from_logits and "crossentropy" in loss.name:
        output = random.dirichlet(np.ones(shape[-1] + 1), shape[:-1])[..., :-1].astype(np.float32)
    spec = loss.target_spec(shape)
    if spec.dtype == tf.int32:
        y = random.integers(0, 3, spec.shape.as_list()).astype(np.int32)
        if loss.name == "ctc":  # the shortest first, so that the rest of a row is padding
            y = -np.sort(-np.maximum(y - 1, -1), axis=1)
            y = np.where(y == loss.blank_index, -1, y).astype(np.int32)
    else:
        y = random.integers(0, 2, spec.shape.as_list()).astype(np.float32)
    garbage = WEIGHT == 0
    output[garbage] = random.choice([np.nan, np.inf, -np.inf])
    y[garbage] = 777 if y.dtype == np.int32 else np.nan
    return {"output": output, "y": y, "weight": WEIGHT}


@pytest.mark.slow
def test_both_runtimes_compute_what_tensorflow_computes(tmp_path: Path, device_run) -> None:
    module = LossModule(CASES)
    file = convert(module, tmp_path / "losses.tflite")
    calls = [(name, example(*CASES[name], seed)) for name in CASES for seed in range(5)]
    for runtime in installed():
        (outputs,) = device_run(runtime, [(file, calls)])
        for (name, inputs), output in zip(calls, outputs, strict=True):
            expected = module.traced[name](**{key: tf.constant(value) for key, value in inputs.items()})
            assert output.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_allclose(
                    output[key], value, rtol=2e-6, atol=2e-6, err_msg=f"{runtime} {name} {key}"
                )
            np.testing.assert_array_equal(output["gradient"][WEIGHT == 0], 0)
