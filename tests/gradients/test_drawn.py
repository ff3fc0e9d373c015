"""Gradients over drawn shapes, strides, paddings and batch sizes against float64 autodiff."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

layers = keras.layers
relaxed = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
paddings = st.sampled_from(["same", "valid"])
sizes = st.integers(4, 9)
counts = st.integers(1, 4)


def check(
    gradient_check,
    case,
    layer: Callable[[], keras.layers.Layer],
    batch: int,
    shape: tuple[int, ...],
    precision: str = "float64",
) -> None:
    x = np.random.default_rng(sum(shape)).normal(size=(batch, *shape)).astype(np.float32)

    def model() -> keras.Model:
        inputs = keras.Input(shape)
        return keras.Model(inputs, layer()(inputs))

    gradient_check.on_host(case(f"{layer} {shape}", model, [x], precision=precision))


@relaxed
@given(st.tuples(sizes, sizes, counts), counts, counts, counts, counts, paddings, st.booleans())
def test_convolutions(gradient_check, case, shape, batch, filters, height, stride, padding, dilated) -> None:
    step = {"dilation_rate": stride} if dilated else {"strides": stride}
    if padding == "valid" and (height - 1) * (stride if dilated else 1) >= min(shape[:2]):
        padding = "same"
    check(
        gradient_check,
        case,
        lambda: layers.Conv2D(filters, (height, 2), padding=padding, **step),
        batch,
        shape,
    )


@relaxed
@given(
    st.tuples(st.integers(13, 21), sizes, st.integers(3, 6)),
    counts,
    st.integers(1, 4),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    paddings,
)
def test_tall_convolutions(
    gradient_check, case, shape, batch, filters, height, width, dilation, padding
) -> None:
    """High images are convolved by windows of one row."""
    check(
        gradient_check,
        case,
        lambda: layers.Conv2D(filters, (height, width), padding=padding, dilation_rate=dilation),
        batch,
        shape,
    )


@relaxed
@given(st.tuples(sizes, sizes, counts), counts, st.integers(1, 3), st.integers(1, 4), paddings)
def test_strides_that_differ(gradient_check, case, shape, batch, down, right, padding) -> None:
    """A stride beyond the kernel leaves elements that nobody reads."""
    check(
        gradient_check,
        case,
        lambda: layers.Conv2D(3, (3, 2), (down, right), padding=padding),
        batch,
        shape,
    )


@relaxed
@given(st.lists(sizes, min_size=0, max_size=3), counts, st.integers(2, 5), st.booleans(), st.booleans())
def test_batch_normalizations(gradient_check, case, spatial, channels, batch, scale, center) -> None:
    check(
        gradient_check,
        case,
        lambda: layers.BatchNormalization(scale=scale, center=center),
        batch,
        (*spatial, channels),
    )


@relaxed
@given(st.tuples(sizes, sizes, counts), counts, counts, st.integers(1, 3), st.integers(1, 2), paddings)
def test_depthwise_convolutions(
    gradient_check, case, shape, batch, kernel, stride, multiplier, padding
) -> None:
    check(
        gradient_check,
        case,
        lambda: layers.DepthwiseConv2D(kernel, stride, padding, depth_multiplier=multiplier),
        batch,
        shape,
    )


@relaxed
@given(st.tuples(sizes, sizes, counts), counts, counts, st.integers(1, 3), paddings, st.booleans())
def test_poolings(gradient_check, case, shape, batch, size, stride, padding, greatest) -> None:
    kind = layers.MaxPool2D if greatest else layers.AveragePooling2D
    check(gradient_check, case, lambda: kind(size, stride, padding), batch, shape)


@relaxed
@given(st.tuples(sizes, sizes, sizes, counts), counts, counts, st.integers(1, 3), st.integers(1, 2), paddings)
def test_volumes(gradient_check, case, shape, batch, filters, kernel, stride, padding) -> None:
    check(gradient_check, case, lambda: layers.Conv3D(filters, kernel, stride, padding), batch, shape)
    check(gradient_check, case, lambda: layers.MaxPool3D(kernel, stride, padding), batch, shape, "float32")
