"""Reference architectures: the ConvNets of MLPerf Tiny and the two-convolution digit classifier.

Layers follow https://github.com/mlcommons/tiny (v1.1): image classification (ResNet-8), keyword spotting
(DS-CNN) and visual wake words (MobileNetV1 0.25). ``momentum`` is that of the normalizations' moving
statistics: a training of a few hundred steps needs a smaller one than theirs, which remembers a hundred steps
and more.
"""

from __future__ import annotations

import keras

layers = keras.layers
_WEIGHT_DECAY = keras.regularizers.L2(1e-4)


def two_conv_cnn(shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """Two convolutions and two dense layers: 109,386 weights for MNIST."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPool2D(),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="two_conv_cnn",
    )


def resnet8(
    shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    name: str = "resnet8",
    momentum: float = 0.99,
) -> keras.Model:
    """Three residual stacks of 16, 32 and 64 filters."""
    image = keras.Input(shape)
    x = _normalized(layers.Conv2D(16, 3, padding="same", kernel_regularizer=_WEIGHT_DECAY)(image), momentum)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        shortcut = x
        y = _normalized(
            layers.Conv2D(filters, 3, stride, padding="same", kernel_regularizer=_WEIGHT_DECAY)(x), momentum
        )
        y = layers.Conv2D(filters, 3, padding="same", kernel_regularizer=_WEIGHT_DECAY)(y)
        y = layers.BatchNormalization(momentum=momentum)(y)
        if stride > 1:
            shortcut = layers.Conv2D(filters, 1, stride, padding="same", kernel_regularizer=_WEIGHT_DECAY)(x)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name=name)


def ds_cnn(
    shape: tuple[int, int, int] = (49, 10, 1),
    classes: int = 12,
    *,
    name: str = "ds_cnn",
    momentum: float = 0.99,
) -> keras.Model:
    """Four depthwise-separable convolutions of 64 filters over 49 frames of 10 cepstral coefficients."""
    frames = keras.Input(shape)
    x = _normalized(layers.Conv2D(64, (10, 4), 2, padding="same")(frames), momentum)
    x = layers.Dropout(0.2)(x)
    for _ in range(4):
        x = _normalized(layers.DepthwiseConv2D(3, padding="same")(x), momentum)
        x = _normalized(layers.Conv2D(64, 1, padding="same")(x), momentum)
    x = layers.Dropout(0.4)(x)
    x = layers.Flatten()(layers.AveragePooling2D((shape[0] // 2, shape[1] // 2))(x))
    return keras.Model(frames, layers.Dense(classes, activation="softmax")(x), name=name)


def mobilenet_v1(
    shape: tuple[int, int, int] = (96, 96, 3),
    classes: int = 2,
    alpha: float = 0.25,
    *,
    name: str = "mobilenet_v1",
    momentum: float = 0.99,
) -> keras.Model:
    """Thirteen depthwise-separable convolutions; ``alpha`` scales the number of filters."""
    image = keras.Input(shape)
    x = _normalized(layers.Conv2D(int(32 * alpha), 3, 2, padding="same")(image), momentum)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for filters, stride in plan:
        x = _normalized(layers.DepthwiseConv2D(3, stride, padding="same")(x), momentum)
        x = _normalized(layers.Conv2D(int(filters * alpha), 1, padding="same")(x), momentum)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name=name)


def _normalized(x: keras.KerasTensor, momentum: float) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))
