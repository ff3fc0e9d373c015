"""How much arithmetic an operator does; a multiplication and an addition are two operations."""

from __future__ import annotations

import math

from .graph import Graph, GraphOperator

# Operators that only move, name or reinterpret numbers.
_FREE = {
    "RESHAPE", "TRANSPOSE", "CONCATENATION", "PAD", "PADV2", "SLICE", "STRIDED_SLICE", "SPLIT",
    "SPLIT_V", "PACK", "UNPACK", "GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "REVERSE_V2",
    "SQUEEZE", "EXPAND_DIMS", "FILL", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE",
    "WHILE", "IF", "SHAPE", "CAST", "RANGE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
    "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "ZEROS_LIKE", "MIRROR_PAD", "BROADCAST_ARGS", "EMBEDDING_LOOKUP",
}  # fmt: skip
_REDUCTIONS = {"SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "ARG_MAX", "ARG_MIN", "CUMSUM"}
_POOLS = {"AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"}


def flops(operator: GraphOperator, graph: Graph) -> int:
    """Operations of one run of an operator; of those of a loop, one pass.

    Products are counted exactly, biases and fused activations not at all, everything else as one operation
    for each number that it makes, or reads if it reduces. A fused LSTM counts the products of its eight
    matrices in each step, and nothing for the gates.
    """
    if operator.name in _FREE or not operator.outputs:
        return 0
    size = graph.tensors[operator.outputs[0]].elements
    shapes = [graph.tensors[place].shape if place >= 0 else () for place in operator.inputs]
    counted = _products(operator, shapes, size)
    if counted is not None:
        return 2 * counted
    if operator.name in _POOLS:
        return size * operator.options["filter_h"] * operator.options["filter_w"]
    if operator.name in _REDUCTIONS:
        return _count(shapes[0])
    return size


def _products(operator: GraphOperator, shapes: list[tuple[int, ...]], size: int) -> int | None:
    """Multiply-accumulates of an operator made of them; None for every other."""
    match operator.name:
        case "CONV_2D":
            return size * _count(shapes[1][1:])
        case "DEPTHWISE_CONV_2D":
            return size * _count(shapes[1][1:3])
        case "CONV_3D":
            return size * _count(shapes[1][:4])
        case "TRANSPOSE_CONV":
            return _count(shapes[2]) * _count(shapes[1][:3])
        case "CONV_3D_TRANSPOSE":
            return _count(shapes[2]) * _count(shapes[1][:4])
        case "FULLY_CONNECTED":
            return size * shapes[1][-1]
        case "BATCH_MATMUL":
            return size * shapes[0][-2 if operator.options["adj_x"] else -1]
        case "UNIDIRECTIONAL_SEQUENCE_LSTM":
            return _count(shapes[0][:-1]) * sum(map(_count, shapes[1:9]))
        case "SVDF":
            return _count(shapes[0][:1]) * (_count(shapes[1]) + _count(shapes[2]))
        case _:
            return None


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(1 if size < 0 else size for size in shape)
