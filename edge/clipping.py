"""Differential privacy's part on the device: an update is at most so far from the model that was sent.

McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018), flat clipping. Flower's
`DifferentialPrivacyClientSide...` strategies put the norm into the task's config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

KEY = "clipping_norm"
NORM_BIT = "norm_bit"

Weights = Mapping[str, NDArray[np.float32]]


def clip(new: Weights, start: Weights, norm: float) -> tuple[dict[str, NDArray[np.float32]], bool]:
    """Scales the difference of two models down to an L2 norm.

    Args:
        new: After training, float32, of the same names and shapes as `start`.
        start: Before it.
        norm: Of all tensors together, at most.

    Returns:
        The clipped model, and whether it had been further away; the second is what adaptive clipping counts.
    """
    length = math.sqrt(sum(float(np.sum(np.square(new[n] - start[n], dtype=np.float64))) for n in start))
    if length <= norm:
        return dict(new), False
    factor = np.float32(norm / length)
    return {name: start[name] + (new[name] - start[name]) * factor for name in start}, True
