"""A trainable file is its weights and little more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import pytest

from hedgerow.models import architectures, export_trainable


@pytest.mark.parametrize(
    "build",
    [
        architectures.two_conv_cnn,
        architectures.resnet8,
        architectures.ds_cnn,
        architectures.mobilenet_v1,
    ],
)
def test_a_convnets_file_is_1_3_times_its_weights_and_100_kb(
    build: Callable[[], keras.Model], tmp_path: Path
) -> None:
    model, file = build(), tmp_path / "model.tflite"
    export_trainable(model, file, batch_size=16, loss="sparse_categorical_crossentropy", momentum=0.9)
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    assert weights < file.stat().st_size <= 1.3 * weights + 100_000
