"""Faces and other things: the subset of Labeled Faces in the Wild that scikit-image brings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .dataset import Dataset, join
from .federation import Federation, deal
from .package import data_file

PREPROCESSING = "25x25 grey images, x in [0, 1]"

_FACES = 100


def faces() -> Dataset:
    """100 faces and 100 pieces of background, float32 [200, 25, 25, 1] in [0, 1].

    Source: G. Huang et al., "Labeled Faces in the Wild", 2007; scikit-image's `lfw_subset`.

    Raises:
        errors.DatasetError: scikit-image is not installed.
    """
    images = np.load(data_file("skimage", "data/lfw_subset.npy")).astype(np.float32)[..., None]
    return Dataset(images, (np.arange(len(images)) < _FACES).astype(np.int32), ("other", "face"))


def federate_faces(
    *, devices: int | None = None, alpha: float | None = None, seed: int = 0, pixels: int = 25
) -> Federation:
    """A fifth of the images centrally, two fifths over 4 devices, two fifths held out; see `deal`.

    Each image that is trained on is there twice, once as in a mirror; those held out are as they were taken.

    Args:
        devices: How many devices; by default 4.
        alpha: Of the Dirichlet distribution; by default 1.
        seed: Of every choice.
        pixels: Height and width: 25, or more with the edge repeated around the image.
    """
    data, margin = faces(), (pixels - 25) // 2
    if pixels > 25:
        around = ((0, 0), (margin, pixels - 25 - margin), (margin, pixels - 25 - margin), (0, 0))
        data = Dataset(np.pad(data.x, around, mode="edge"), data.y, data.labels)
    dealt = deal(
        data,
        devices=4 if devices is None else devices,
        alpha=1.0 if alpha is None else alpha,
        seed=seed,
        held_out=80,
        central=40,
        calibration=20,
        preprocessing=PREPROCESSING if pixels == 25 else f"{PREPROCESSING}, padded to {pixels}x{pixels}",
    )
    return replace(
        dealt,
        central=_with_mirrored(dealt.central),
        devices=tuple(replace(device, train=_with_mirrored(device.train)) for device in dealt.devices),
    )


def _with_mirrored(data: Dataset) -> Dataset:
    return join([data, replace(data, x=np.ascontiguousarray(data.x[:, :, ::-1]))])
