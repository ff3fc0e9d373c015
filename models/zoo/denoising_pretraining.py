"""A ConvNet that first learns to clean images, then to read digits from ten labels a class.

Unsupervised pre-training by a denoising autoencoder: what the encoder learned without labels is where
supervised training starts. Source: P. Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010.
"""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
from keras import layers

from ..baselines import Baseline
from ..datasets import Dataset, Federation, federate_digits
from ..evaluation import predictor
from ..measures import Predict
from ..training import train_centrally
from .entry import CentralTraining, Entry, FederatedTraining

LABELS = 100
NOISE = 0.5
EPOCHS = 25
FINE_TUNING = CentralTraining(epochs=40, batch_size=16, learning_rate=1e-3)


def build() -> keras.Model:
    """float32 [B, 28, 28, 1] in [0, 1] to the probabilities of ten digits, float32 [B, 10]."""
    image = keras.Input((28, 28, 1), name="image")
    digit = layers.Dense(10, activation="softmax", name="digit")(encoder()(image))
    return keras.Model(image, digit, name="denoising-pretraining")


def encoder() -> keras.Model:
    """float32 [B, 28, 28, 1] to 64 features."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="strokes"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="shapes"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="features"),
        ],
        name="encoder",
    )


def pretrain(model: keras.Model, federation: Federation, seed: int) -> None:
    """Trains the model's encoder to restore images of which half of the pixels were blotted out."""
    assert federation.unlabelled is not None
    clean = federation.unlabelled.x
    noisy = np.where(np.random.default_rng(seed).random(clean.shape) < NOISE, 0, clean).astype(np.float32)
    restored = layers.Dense(28 * 28, activation="sigmoid", name="restored")(model.get_layer("encoder").output)
    autoencoder = keras.Model(model.get_layer("encoder").input, layers.Reshape((28, 28, 1))(restored))
    autoencoder.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy")
    autoencoder.fit(noisy, clean, batch_size=32, epochs=EPOCHS, verbose=0)


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Ten labelled digits a class and 1,500 without labels centrally; labelled ones on 8 devices."""
    digits = federate_digits(devices=devices, alpha=alpha, seed=seed, central=LABELS + 1500, limit=3200)
    order = np.argsort(digits.central.y, kind="stable")
    labelled = np.concatenate(
        [order[digits.central.y[order] == number][: LABELS // 10] for number in range(10)]
    )
    rest = np.setdiff1d(order, labelled)
    central = digits.central.take(np.sort(labelled))
    unlabelled = Dataset(digits.central.x[rest], np.zeros(len(rest), np.int32))
    return replace(digits, central=central, calibration=central, unlabelled=unlabelled)


def from_scratch(train: Dataset) -> Predict:
    """The same network, trained on the labelled examples alone."""
    keras.utils.set_random_seed(0)
    model = build()
    train_centrally(
        model,
        train,
        epochs=FINE_TUNING.epochs,
        batch_size=FINE_TUNING.batch_size,
        learning_rate=FINE_TUNING.learning_rate,
        seed=0,
    )
    return predictor(model)


DENOISING_PRETRAINING = Entry(
    name="denoising-pretraining",
    title="ConvNet pre-trained by denoising, then fine-tuned with ten labels a class",
    data="MNIST, 100 labelled and 1,500 unlabelled",
    build=build,
    federate=federate,
    central=FINE_TUNING,
    federated=FederatedTraining(
        rounds=5, local_epochs=2, batch_size=16, learning_rate=0.01, optimizer="momentum"
    ),
    baseline=Baseline(name="the same from scratch", fit=from_scratch),
    pretrain=pretrain,
)
