"""A network that first learns to clean images, then to read digits from ten labels a class.

Unsupervised pre-training by a denoising autoencoder: what its hidden layer learned without labels is where
supervised training of all weights starts. Source: P. Vincent et al., "Stacked denoising autoencoders", JMLR
11, 2010.
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
UNLABELLED = 2400
MASKED = 0.4
PRETRAINING = CentralTraining(epochs=20, batch_size=64, learning_rate=1e-3)
# Chosen, with the width and the share of masked pixels, on the devices' examples of another seed.
FINE_TUNING = CentralTraining(epochs=100, batch_size=16, learning_rate=1e-3)


def build() -> keras.Model:
    """float32 [B, 28, 28, 1] in [0, 1] to the probabilities of ten digits, float32 [B, 10]."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Flatten(name="pixels"),
            layers.Dense(300, activation="sigmoid", name="features"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="denoising-pretraining",
    )


def pretrain(model: keras.Model, federation: Federation, seed: int) -> None:
    """Trains the hidden layer to restore images of which other pixels are blotted out at every step."""
    assert federation.unlabelled is not None
    clean = federation.unlabelled.x.reshape(len(federation.unlabelled), -1)
    pixels = keras.Input((28 * 28,), name="pixels")
    blotted = layers.Rescaling(1 - MASKED)(layers.Dropout(MASKED, seed=seed)(pixels))
    restored = layers.Dense(28 * 28, activation="sigmoid", name="restored")
    autoencoder = keras.Model(pixels, restored(model.get_layer("features")(blotted)))
    train_centrally(
        autoencoder,
        Dataset(clean, clean),
        epochs=PRETRAINING.epochs,
        batch_size=PRETRAINING.batch_size,
        learning_rate=PRETRAINING.learning_rate,
        schedule="constant",
        seed=seed,
        loss="binary_crossentropy",
    )


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """Ten labelled digits a class and 2,400 without labels centrally; labelled ones on 8 devices."""
    digits = federate_digits(devices=devices, alpha=alpha, seed=seed, central=LABELS + UNLABELLED)
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
    title="Network pre-trained by denoising, then fine-tuned with ten labels a class",
    data="MNIST, 100 labelled and 2,400 unlabelled",
    build=build,
    federate=federate,
    central=FINE_TUNING,
    federated=FederatedTraining(
        rounds=5, local_epochs=2, batch_size=16, learning_rate=0.01, optimizer="momentum"
    ),
    baseline=Baseline(name="the same from scratch", fit=from_scratch),
    pretrain=pretrain,
)
