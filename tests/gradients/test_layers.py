"""Every covered layer, converted: gradients on both runtimes against float64 autodiff of Keras itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

layers = keras.layers
Build = Callable[[list[keras.KerasTensor]], keras.KerasTensor]
Entry = tuple[str, list[tuple[int, ...]], Build]

BATCH = 3
SEQUENCE, IMAGE, VOLUME = (9, 3), (9, 8, 3), (7, 6, 5, 2)


def one(label: str, shape: tuple[int, ...], layer: Callable[[], keras.layers.Layer]) -> Entry:
    return label, [shape], lambda inputs: layer()(inputs[0])


def convolutions_1d() -> Iterator[Entry]:
    for padding in ("same", "valid", "causal"):
        for options in ({}, {"strides": 2}, {"dilation_rate": 2}, {"groups": 3}):
            yield one(
                f"conv1d {padding} {options}",
                SEQUENCE,
                lambda p=padding, o=options: layers.Conv1D(6, 3, padding=p, **o),
            )
    for padding in ("same", "valid"):
        yield one(f"depthwise1d {padding}", SEQUENCE, lambda p=padding: layers.DepthwiseConv1D(3, padding=p))
        yield one(
            f"separable1d {padding}", SEQUENCE, lambda p=padding: layers.SeparableConv1D(4, 3, 2, padding=p)
        )
        yield one(
            f"transposed1d {padding}", SEQUENCE, lambda p=padding: layers.Conv1DTranspose(4, 3, 2, padding=p)
        )


def convolutions_2d() -> Iterator[Entry]:
    wide = (9, 8, 32)
    for padding in ("same", "valid"):
        for options in ({}, {"strides": 2}, {"dilation_rate": 2}, {"strides": (2, 1)}):
            for shape in (IMAGE, (9, 8, 1), wide):
                yield one(
                    f"conv2d {padding} {options} {shape}",
                    shape,
                    lambda p=padding, o=options: layers.Conv2D(5, 3, padding=p, **o),
                )
        for options in ({}, {"dilation_rate": 2}, {"strides": (3, 2)}):
            yield one(
                f"tall {padding} {options}",
                (21, 7, 4),
                lambda p=padding, o=options: layers.Conv2D(3, 3, padding=p, **o),
            )
        yield one(f"pointwise {padding}", IMAGE, lambda p=padding: layers.Conv2D(5, 1, padding=p))
        yield one(f"pointwise s2 {padding}", IMAGE, lambda p=padding: layers.Conv2D(5, 1, 2, padding=p))


def convolutions_2d_apart() -> Iterator[Entry]:
    for padding in ("same", "valid"):
        yield one(
            f"groups {padding}",
            (9, 8, 4),
            lambda p=padding: layers.Conv2D(6, 3, padding=p, groups=2, use_bias=False),
        )
        for options in ({}, {"strides": 2, "depth_multiplier": 2}, {"dilation_rate": 2}):
            yield one(
                f"depthwise {padding} {options}",
                IMAGE,
                lambda p=padding, o=options: layers.DepthwiseConv2D(3, padding=p, **o),
            )
        yield one(f"separable {padding}", IMAGE, lambda p=padding: layers.SeparableConv2D(4, 3, padding=p))
        yield one(f"transposed {padding}", IMAGE, lambda p=padding: layers.Conv2DTranspose(4, 3, padding=p))
        yield one(
            f"transposed s2 {padding}", IMAGE, lambda p=padding: layers.Conv2DTranspose(4, 3, 2, padding=p)
        )
        yield one(
            f"transposed output padding {padding}",
            IMAGE,
            lambda p=padding: layers.Conv2DTranspose(4, 3, 2, padding=p, output_padding=1),
        )


def convolutions_3d() -> Iterator[Entry]:
    for padding in ("same", "valid"):
        for options in ({}, {"strides": 2}, {"dilation_rate": 2}, {"groups": 2}):
            yield one(
                f"conv3d {padding} {options}",
                VOLUME,
                lambda p=padding, o=options: layers.Conv3D(4, 2, padding=p, **o),
            )
        yield one(
            f"transposed3d {padding}",
            (3, 3, 2, 2),
            lambda p=padding: layers.Conv3DTranspose(3, 2, 2, padding=p),
        )


def poolings() -> Iterator[Entry]:
    for rank, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME)):
        for kind in ("Max", "Average"):
            whole = getattr(layers, f"Global{kind}Pooling{rank}D")
            yield one(f"global {kind} {rank}", shape, whole)
            sliding = getattr(layers, f"{kind}Pooling{rank}D")
            for padding in ("same", "valid"):
                for size, stride in ((2, 2), (3, 2), (2, 3), (3, 1)):
                    yield one(
                        f"{kind} {rank} {size} {stride} {padding}",
                        shape,
                        lambda c=sliding, n=size, s=stride, p=padding: c(n, s, padding=p),
                    )


def normalizations() -> Iterator[Entry]:
    for shape in ((6,), SEQUENCE, IMAGE, VOLUME):
        yield one(f"batch {shape}", shape, layers.BatchNormalization)
    yield one("batch plain", IMAGE, lambda: layers.BatchNormalization(center=False, scale=False))
    yield one("layer", (5, 6), layers.LayerNormalization)
    yield one("layer axes", IMAGE, lambda: layers.LayerNormalization(axis=(1, 2, 3)))
    yield one("group", (5, 4, 6), lambda: layers.GroupNormalization(3))
    yield one("instance", (5, 4, 6), lambda: layers.GroupNormalization(-1))
    yield one("unit", (5, 6), layers.UnitNormalization)
    yield one("rms", (5, 6), layers.RMSNormalization)
    yield one("normalization", SEQUENCE, lambda: layers.Normalization(mean=[1, 2, 3], variance=[1, 2, 4]))
    yield one("normalization built", SEQUENCE, layers.Normalization)
    yield one("rescaling", IMAGE, lambda: layers.Rescaling(1 / 127.5, -1.0))


def activations() -> Iterator[Entry]:
    names = (
        "relu relu6 leaky_relu elu selu gelu silu hard_sigmoid hard_silu hard_tanh sigmoid tanh softmax "
        "softplus softsign exponential mish log_softmax celu hard_shrink soft_shrink log_sigmoid tanh_shrink "
        "squareplus linear"
    )
    for name in ("relu", "relu6"):
        # The converter would fuse these into a matrix product, and the kernels would forget them.
        for shape in ((6,), (4, 6), (5, 4, 6)):
            yield one(
                f"dense {name} {shape}", shape, lambda n=name: layers.Dense(5, use_bias=False, activation=n)
            )
        for size in (1, 3):
            yield one(
                f"conv {name} {size}",
                (20, 6, 3),
                lambda n=name, s=size: layers.Conv2D(4, s, use_bias=False, activation=n),
            )
    for name in names.split():
        yield one(name, (5, 6), lambda n=name: layers.Activation(n))
    yield one("prelu", (5, 6), layers.PReLU)
    yield one("prelu shared", (5, 4, 6), lambda: layers.PReLU(shared_axes=[1, 2]))
    yield one("LeakyReLU", (5, 6), lambda: layers.LeakyReLU(0.2))
    yield one("ELU", (5, 6), lambda: layers.ELU(0.7))
    yield one("ReLU", (5, 6), lambda: layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2))
    yield one("Softmax", (5, 6), lambda: layers.Softmax(axis=1))
    yield one("relu volume", VOLUME, lambda: layers.LeakyReLU(0.2))


def shapes() -> Iterator[Entry]:
    for rank, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME)):
        for name, amount in (("ZeroPadding", 2), ("Cropping", 1), ("UpSampling", 2)):
            yield one(
                f"{name} {rank}", shape, lambda n=name, r=rank, a=amount: getattr(layers, f"{n}{r}D")(a)
            )
    yield one("bilinear", IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear"))
    yield one("resizing", IMAGE, lambda: layers.Resizing(4, 5))
    yield one("center crop", IMAGE, lambda: layers.CenterCrop(4, 4))
    yield one("permute", IMAGE, lambda: layers.Permute((3, 1, 2)))
    yield one("repeat", (6,), lambda: layers.RepeatVector(3))
    yield one("flatten", IMAGE, layers.Flatten)
    yield one("reshape", (6, 4), lambda: layers.Reshape((3, -1)))
    yield one("masking", SEQUENCE, layers.Masking)
    yield one("time distributed dense", SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(4)))
    yield one("time distributed conv", (2, 7, 7, 3), lambda: layers.TimeDistributed(layers.Conv2D(4, 3)))
    yield "slices", [(7, 5)], lambda inputs: inputs[0][:, 1:-1:2, ::-1]


def merges() -> Iterator[Entry]:
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        merge = getattr(layers, name)
        yield name, [(5, 3), (5, 3)], lambda inputs, m=merge: m()(inputs)
        yield f"{name} broadcast", [(5, 3), (1, 3)], lambda inputs, m=merge: m()(inputs)
        yield f"{name} volume", [VOLUME, (7, 1, 5, 1)], lambda inputs, m=merge: m()(inputs)
    yield "concatenate", [(5, 3), (5, 4)], lambda inputs: layers.Concatenate()(inputs)
    yield "concatenate 1", [(5, 3), (2, 3)], lambda inputs: layers.Concatenate(axis=1)(inputs)
    yield "dot", [(5, 3), (5, 4)], lambda inputs: layers.Dot(axes=1)(inputs)
    yield "cosine", [(5,), (5,)], lambda inputs: layers.Dot(axes=1, normalize=True)(inputs)


def dense_and_attention() -> Iterator[Entry]:
    yield one("dense", (7,), lambda: layers.Dense(5))
    yield one("dense sequence", (3, 7), lambda: layers.Dense(5))
    yield one("einsum", (3, 7), lambda: layers.EinsumDense("abc,cd->abd", output_shape=(3, 5), bias_axes="d"))
    yield one("einsum 2", (3, 7), lambda: layers.EinsumDense("abc,cde->abde", (3, 5, 2), bias_axes="de"))
    yield "attention", [(5, 3), (6, 3)], lambda inputs: layers.Attention(use_scale=True)(inputs)
    yield "causal", [(5, 3), (5, 3)], lambda inputs: layers.Attention()(inputs, use_causal_mask=True)
    yield "additive", [(5, 3), (6, 3)], lambda inputs: layers.AdditiveAttention()(inputs)
    yield "heads", [(5, 6), (7, 6)], lambda inputs: layers.MultiHeadAttention(2, 3)(*inputs)
    yield (
        "self",
        [(5, 6)],
        lambda inputs: layers.MultiHeadAttention(2, 3)(inputs[0], inputs[0], use_causal_mask=True),
    )


FAMILIES = (
    convolutions_1d,
    convolutions_2d,
    convolutions_2d_apart,
    convolutions_3d,
    poolings,
    normalizations,
    activations,
    shapes,
    merges,
    dense_and_attention,
)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_gradients_on_both_runtimes(gradient_check, case, family: Callable[[], Iterator[Entry]]) -> None:
    generator = np.random.default_rng(3)
    cases = []
    for label, input_shapes, build in family():
        arrays = [generator.normal(size=(BATCH, *shape)).astype(np.float32) for shape in input_shapes]

        def model(shapes=input_shapes, build=build) -> keras.Model:
            inputs = [keras.Input(shape) for shape in shapes]
            return keras.Model(inputs if len(inputs) > 1 else inputs[0], build(inputs))

        precision = "float32" if label.startswith(("Max 3", "Average 3")) else "float64"
        cases.append(case(label, model, arrays, precision=precision))
    gradient_check.on_devices(cases)


def test_rows_of_an_embedding_taken_twice_add_up(gradient_check, case) -> None:
    def model() -> keras.Model:
        words = keras.Input((6,), dtype="int32")
        return keras.Model(words, layers.Embedding(5, 4)(words))

    words = np.array([[0, 1, 1, 1, 4, 0], [2, 2, 2, 2, 2, 2]], np.int32)
    gradient_check.on_devices([case("embedding", model, [words])])
