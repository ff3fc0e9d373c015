"""Two Japanese vowels said by nine men: the utterances that sktime brings."""

from __future__ import annotations

import numpy as np

from .dataset import Dataset
from .federation import Federation, deal
from .package import data_file

STEPS = 29
COEFFICIENTS = 12
PREPROCESSING = (
    "12 linear-prediction cepstral coefficients a frame times 2, zeros before the utterance up to 29 frames"
)

_SCALE = 2
_LABELS = tuple(f"speaker {number}" for number in range(1, 10))


def japanese_vowels(part: str) -> Dataset:
    """Utterances of /ae/ by nine speakers, float32 [N, 29, 12]; 270 of `TRAIN`, 370 of `TEST`.

    Source: M. Kudo, J. Toyama, M. Shimbo, "Multidimensional curve classification using passing-through
    regions", Pattern Recognition Letters 20, 1999.

    Args:
        part: `TRAIN` or `TEST`, as the authors divided them.

    Raises:
        errors.DatasetError: sktime is not installed.
    """
    path = data_file("sktime", f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
    lines = path.read_text().split("@data", 1)[1].strip().splitlines()
    x = np.zeros((len(lines), STEPS, COEFFICIENTS), np.float32)
    y = np.zeros(len(lines), np.int32)
    for row, line in enumerate(lines):
        *dimensions, speaker = line.split(":")
        frames = np.array([np.fromstring(one, np.float32, sep=",") for one in dimensions]).T
        frames = frames[~np.isnan(frames).any(axis=1)]
        x[row, STEPS - len(frames) :] = _SCALE * frames
        y[row] = int(speaker) - 1
    return Dataset(x, y, _LABELS)


def federate_speech(*, devices: int | None = None, alpha: float | None = None, seed: int = 0) -> Federation:
    """The authors' training part, a third of it centrally, the rest over devices; their test part held out.

    Args:
        devices: How many devices; by default 4.
        alpha: Of the Dirichlet distribution; by default 1.
        seed: Of every choice.
    """
    return deal(
        japanese_vowels("TRAIN"),
        devices=4 if devices is None else devices,
        alpha=1.0 if alpha is None else alpha,
        seed=seed,
        held_out=japanese_vowels("TEST"),
        central=90,
        calibration=60,
        preprocessing=PREPROCESSING,
    )
