"""The coordinator's own test of a global model, against Keras."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from hedgerow.coordinator.evaluation import HeldOutEvaluation
from hedgerow.errors import CoordinatorConfigError
from hedgerow.hardware.interpreter import load
from hedgerow.models import export_trainable


@pytest.mark.parametrize("inputs", [1, 2])
def test_loss_and_accuracy_are_those_of_keras(inputs: int, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    words, numbers = keras.Input((4,), dtype="int32"), keras.Input((4, 3))
    x = layers.Embedding(9, 5)(words)
    if inputs == 2:
        x = layers.Concatenate()([x, numbers])
    model = keras.Model([words, numbers][:inputs], layers.Dense(6, activation="softmax")(x))
    export_trainable(model, tmp_path / "model.tflite", batch_size=8, optimizer="sgd")

    generator = np.random.default_rng(0)
    given = [
        generator.integers(0, 9, (21, 4)).astype(np.int32),
        generator.normal(size=(21, 4, 3)).astype(np.float32),
    ][:inputs]
    y = generator.integers(0, 6, (21, 4)).astype(np.int32)
    names = ["x"] if inputs == 1 else ["x0", "x1"]
    np.savez(tmp_path / "test.npz", y=y, **dict(zip(names, given, strict=True)))
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    expected = model.evaluate(given, y, verbose=0, return_dict=True)

    with load(tmp_path / "model.tflite", runtime="litert") as program:
        evaluation = HeldOutEvaluation(program, tmp_path / "test.npz")
        found = evaluation.evaluate({weight.path: weight.numpy() for weight in model.weights})
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-5)
        np.savez(tmp_path / "other.npz", wrong=given[0], y=y)
        with pytest.raises(
            CoordinatorConfigError, match="arrays x0? and" if inputs == 2 else "arrays x and y"
        ):
            HeldOutEvaluation(program, tmp_path / "other.npz")
