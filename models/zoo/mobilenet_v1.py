"""MobileNet, MLPerf Tiny's detector of persons: thirteen depthwise-separable convolutions; here for faces.

Sources: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision
applications", 2017; C. Banbury et al., "MLPerf Tiny benchmark", 2021.
"""

from __future__ import annotations

import keras

from .. import architectures
from ..baselines import NEAREST_MEAN
from ..datasets import Federation, federate_faces
from ..measures import ROC_AUC
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 32, 32, 1] in [0, 1] to the probabilities of other and face, float32 [B, 2]."""
    return architectures.mobilenet_v1((32, 32, 1), name="mobilenet-v1", momentum=0.9)


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """The faces of face-detector, padded to 32x32."""
    return federate_faces(devices=devices, alpha=alpha, seed=seed, pixels=32)


MOBILENET_V1 = Entry(
    name="mobilenet-v1",
    title="MLPerf Tiny's mobile network telling faces from other images",
    data="LFW subset, 200 images",
    build=build,
    federate=federate,
    central=CentralTraining(
        epochs=60,
        batch_size=8,
        learning_rate=2e-3,
        epochs_on_all=30,
        augments_all=True,
        augments_central=True,
    ),
    federated=FederatedTraining(rounds=4, local_epochs=2, batch_size=8, learning_rate=3e-4, optimizer="adam"),
    needs=("scikit-image",),
    measure=ROC_AUC,
    baseline=NEAREST_MEAN,
)
