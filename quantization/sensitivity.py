"""What int8 costs layer by layer: which one to look at when the accuracy drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from . import calibration
from .fake_quant import fake_quantize, quantizable_layers

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What rounding one layer alone does to the model's output.

    Attributes:
        layer: Its name.
        error: Root mean square of the change of the output, as a share of the output's standard deviation.
        agreement: Share of the examples whose largest output stays the same.
    """

    layer: str
    error: float
    agreement: float


def layer_costs(model: keras.Model, x: Array | Sequence[Array]) -> tuple[LayerCost, ...]:
    """Rounds each layer alone as int8 does and measures how far the output moves.

    Args:
        model: A Sequential or functional model with one output.
        x: Some hundred examples.

    Returns:
        The layers that can be rounded, the costliest first.

    Raises:
        CalibrationError: The examples do not fit the model.
    """
    inputs = list(calibration.prepare(model, x).values())
    batch = inputs[0] if len(inputs) == 1 else inputs
    expected = np.asarray(model(batch, training=False))
    spread = max(float(expected.std()), 1e-12)
    costs = []
    for name in quantizable_layers(model):
        outputs = np.asarray(fake_quantize(model, only=(name,))(batch, training=False))
        error = float(np.sqrt(np.mean((outputs - expected) ** 2))) / spread
        same = outputs.argmax(axis=-1) == expected.argmax(axis=-1)
        costs.append(LayerCost(name, error, float(same.mean())))
    return tuple(sorted(costs, key=lambda cost: -cost.error))
