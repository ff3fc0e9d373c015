"""Pictures of filters and feature maps, from models that were not trained."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.models import pictures

NAMESPACE = "{http://www.w3.org/2000/svg}"


def images(path: Path) -> int:
    """How many pictures of pixels an SVG holds."""
    return len(ElementTree.parse(path).findall(f".//{NAMESPACE}image"))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Conv1D(5, 3), (8, 2)),
        (keras.layers.Conv2D(5, 3), (8, 8, 2)),
        (keras.layers.Conv3D(5, 3), (8, 8, 8, 2)),
    ],
    ids=["series", "image", "video"],
)
def test_every_filter_is_drawn(layer: keras.layers.Layer, shape: tuple[int, ...], tmp_path: Path) -> None:
    drawn = pictures.draw_filters(keras.Sequential([keras.Input(shape), layer]), tmp_path / "filters.svg")
    assert drawn is not None
    assert images(drawn) == 5


def test_a_model_without_convolutions_has_no_filters(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert pictures.draw_filters(model, tmp_path / "filters.svg") is None
    assert pictures.draw_feature_maps(model, np.zeros((1, 3), np.float32), tmp_path / "maps.svg") is None


def test_maps_of_a_model_with_two_inputs(tmp_path: Path) -> None:
    picture, words = keras.Input((4, 4, 1)), keras.Input((3,), dtype="int32")
    seen = keras.layers.Conv2D(2, 3, name="seen")(picture)
    told = keras.layers.Embedding(5, 3, name="told")(words)
    both = keras.layers.Concatenate()([keras.layers.Flatten()(seen), keras.layers.Flatten()(told)])
    model = keras.Model([picture, words], both)
    inputs = [np.ones((1, 4, 4, 1), np.float32), np.ones((1, 3), np.int32)]
    drawn = pictures.draw_feature_maps(model, inputs, tmp_path / "maps.svg")
    assert drawn is not None
    assert images(drawn) == 2 + 3, "two maps of the convolution, three features of the words"
