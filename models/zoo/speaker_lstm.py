"""A stacked LSTM that knows a speaker by two vowels.

Source: A. Graves, A. Mohamed, G. Hinton, "Speech recognition with deep recurrent neural networks", ICASSP
2013.
"""

from __future__ import annotations

import keras
from keras import layers

from ..datasets import federate_speech
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 29, 12] cepstral coefficients to the probabilities of nine speakers, float32 [B, 9]."""
    return keras.Sequential(
        [
            keras.Input((29, 12), name="frames"),
            layers.GaussianNoise(0.4, name="noise"),
            layers.LSTM(48, return_sequences=True, name="sounds"),
            layers.Dropout(0.3, name="dropout"),
            layers.LSTM(48, name="voice"),
            layers.Dropout(0.3, name="dropout_again"),
            layers.Dense(9, activation="softmax", name="speaker"),
        ],
        name="speaker-lstm",
    )


# Widths, dropout, noise and the scale of the data were chosen on thirds of the authors' training part.
SPEAKER_LSTM = Entry(
    name="speaker-lstm",
    title="Stacked LSTM naming the speaker of two vowels",
    data="Japanese Vowels, 640 utterances",
    build=build,
    federate=federate_speech,
    central=CentralTraining(epochs=60, batch_size=16, learning_rate=5e-3, epochs_on_all=60),
    federated=FederatedTraining(
        rounds=10, local_epochs=3, batch_size=16, learning_rate=2e-3, optimizer="adam"
    ),
    needs=("sktime",),
)
