"""DS-CNN, MLPerf Tiny's keyword spotter: depthwise-separable convolutions over a spectrogram, here of motion.

Sources: Y. Zhang et al., "Hello edge: keyword spotting on microcontrollers", 2017; C. Banbury et al., "MLPerf
Tiny benchmark", 2021.
"""

from __future__ import annotations

import keras

from .. import architectures
from ..datasets import Federation, spectrograms
from .entry import CentralTraining, Entry, FederatedTraining
from .motion_lstm import federate as federate_windows


def build() -> keras.Model:
    """float32 [B, 9, 11, 12] spectra to the probabilities of seven exercises, float32 [B, 7]."""
    return architectures.ds_cnn((9, 11, 12), classes=7, name="ds-cnn", momentum=0.9)


def federate(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """The watch recordings of motion-lstm as spectrograms."""
    windows = federate_windows(devices=devices, alpha=alpha, seed=seed)
    frames = (
        "log(1 + magnitude) of Hann windows of 20 steps, one every 10, frequency 0 with the sign of its sum; "
        "then the same numbers' central differences along time"
    )
    return windows.map(spectrograms, preprocessing=f"{windows.preprocessing}; {frames}")


DS_CNN = Entry(
    name="ds-cnn",
    title="MLPerf Tiny's keyword network telling exercises apart by motion spectrograms",
    data="watch recordings of 10 people",
    build=build,
    federate=federate,
    central=CentralTraining(epochs=18, batch_size=32, learning_rate=3e-3),
    federated=FederatedTraining(
        rounds=5, local_epochs=1, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("seglearn",),
)
