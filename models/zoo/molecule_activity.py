"""One network for several activities of a molecule, from its fingerprint.

The tasks share what the hidden layers learned. Sources: J. Ma et al., "Deep neural nets as a method for
quantitative structure-activity relationships", J. Chem. Inf. Model. 55, 2015; G. Dahl, N. Jaitly,
R. Salakhutdinov, "Multi-task neural networks for QSAR predictions", 2014.
"""

from __future__ import annotations

import keras
from keras import layers

from ..baselines import RANDOM_FOREST
from ..datasets.molecules import BITS, federate_molecules
from ..measures import TASKS_AUC
from .entry import CentralTraining, Entry, FederatedTraining


def build() -> keras.Model:
    """float32 [B, 1024] of zeros and ones to the probabilities of two activities, float32 [B, 2]."""
    return keras.Sequential(
        [
            keras.Input((BITS,), name="fingerprint"),
            layers.Dense(64, activation="relu", name="fragments"),
            layers.Dropout(0.25, name="some_fragments"),
            layers.Dense(32, activation="relu", name="properties"),
            layers.Dense(2, activation="sigmoid", name="activities"),
        ],
        name="molecule-activity",
    )


MOLECULE_ACTIVITY = Entry(
    name="molecule-activity",
    title="Multi-task network telling solubility from fingerprints",
    data="1,282 molecules",
    build=build,
    federate=federate_molecules,
    central=CentralTraining(epochs=30, batch_size=32, learning_rate=1e-3),
    federated=FederatedTraining(
        rounds=8, local_epochs=2, batch_size=16, learning_rate=1e-3, optimizer="adam"
    ),
    needs=("datamol", "rdkit", "scikit-learn"),
    loss="binary_crossentropy",
    measure=TASKS_AUC,
    baseline=RANDOM_FOREST,
)
