"""What int8 costs operator by operator: where to look when the accuracy drops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConverterError
from ..hardware.graph import GraphOperator, read_graphs
from ..hardware.inference import Inference
from .mixing import computing, name_of

if TYPE_CHECKING:
    from .converter import Converter

Array = NDArray[Any]

LIMIT = 64
"""Operators of a file that are measured at most: an unrolled recurrence has thousands."""

_EXAMPLES = 48


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """What int8 in one operator alone does to the file's output.

    Attributes:
        operator: TFLite's name of the operator.
        layer: The layer that it comes from, and its place in the file.
        output: Name of its output, by which a mix names it.
        error: Root mean square of the change of the output, as a share of the output's standard deviation.
        agreement: Share of the examples whose largest output stays the same.
    """

    operator: str
    layer: str
    output: str
    error: float
    agreement: float


def operator_costs(
    calibrated: bytes,
    x: Array | Sequence[Array],
    *,
    converter: Converter,
    on_operator: Callable[[int, int], None] | None = None,
) -> tuple[OperatorCost, ...]:
    """Makes each operator alone int8, all others float, and measures how far the output moves.

    Args:
        calibrated: What `Converter.calibrate` made.
        x: Examples `[N, ...]`, or one array per input; the first 48 are used.
        converter: A running converter.
        on_operator: Called before each operator with its number from 1 and how many there are.

    Returns:
        The operators that compute, the costliest first; none if the file has more than 64 of them.
    """
    graph = read_graphs(calibrated).graphs[0]
    operators = computing(graph)
    if len(operators) > LIMIT:
        return ()
    arrays = [np.asarray(x)] if hasattr(x, "shape") else [np.asarray(one) for one in x]
    inputs = [array[:_EXAMPLES] for array in arrays]
    everything = {name_of(operator, graph) for operator in graph.operators}
    expected = _run(converter.quantize(calibrated, float_operators=sorted(everything)), inputs)
    spread = max(float(expected.std()), 1e-12)
    costs = []
    for number, operator in enumerate(operators):
        if on_operator is not None:
            on_operator(number + 1, len(operators))
        name = name_of(operator, graph)
        try:
            data = converter.quantize(calibrated, float_operators=sorted(everything - {name}))
        except ConverterError:
            continue
        outputs = _run(data, inputs)
        error = float(np.sqrt(np.mean((outputs - expected) ** 2))) / spread
        same = outputs.argmax(axis=-1) == expected.argmax(axis=-1)
        costs.append(OperatorCost(operator.name, _layer(operator, name), name, error, float(same.mean())))
    return tuple(sorted(costs, key=lambda cost: -cost.error))


def _layer(operator: GraphOperator, name: str) -> str:
    """The layer's name as Keras's scopes leave it, or TFLite's name of the operator."""
    scope, slash, _ = name.partition("/")
    layer = scope.removesuffix("_1") if slash else operator.name.lower()
    return f"{layer} ({operator.index})"


def _run(data: bytes, inputs: Sequence[Array]) -> NDArray[np.float32]:
    with Inference(data, runtime="litert") as inference:
        return inference.predict(*inputs)[0]
