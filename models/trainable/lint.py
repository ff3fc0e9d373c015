"""Refuses what an old runtime would lack, abort on, or silently get wrong.

Each trap was met on tflite-runtime 2.14 or LiteRT 2.3: that a file loads proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from ...errors import UnsafeGraphError

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_LAST_OF_2_14 = schema.BuiltinOperator.RIGHT_SHIFT
_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"}
_BROADCASTING = _ARITHMETIC | {
    "POW", "FLOOR_DIV", "FLOOR_MOD",
    "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND", "LOGICAL_OR",
    "SELECT_V2", "PRELU",
}  # fmt: skip
_HIGHEST_RANK = {
    "SUM": 6, "MEAN": 6, "REDUCE_MAX": 6, "REDUCE_MIN": 6, "REDUCE_PROD": 6, "TRANSPOSE": 6, "PAD": 5,
    "PADV2": 5, "STRIDED_SLICE": 5, "SLICE": 5,
}  # fmt: skip
_HIGHEST_VERSION = {"FULLY_CONNECTED": 11}


@dataclass(frozen=True, slots=True)
class Finding:
    """A trap in a converted file.

    Attributes:
        subgraph: Name of the subgraph: the signature's function.
        operator: TFLite's name of the operator.
        tensor: Name of its output, which begins with the layer's.
        reason: What is wrong with it.
    """

    subgraph: str
    operator: str
    tensor: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} of {self.tensor!r}: {self.reason}"


def lint(model: Any) -> tuple[Finding, ...]:
    """Every trap in a file.

    Args:
        model: The object tree that :func:`hedgerow.models.trainable.file.read` gives.
    """
    return tuple(_findings(model))


def check(model: Any) -> None:
    """Raises what :func:`lint` finds.

    Raises:
        UnsafeGraphError: There is a trap.
    """
    findings = lint(model)
    if findings:
        shown = "; ".join(str(finding) for finding in findings[:3])
        raise UnsafeGraphError(
            f"Expected a graph that every runtime computes, found {len(findings)} trap(s): {shown}.",
            findings=findings,
        )


def _findings(model: Any) -> Iterator[Finding]:
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = _NAMES.get(number, str(number))
            for rule in _RULES:
                reason = rule(model, subgraph, operator, code, name)
                if reason:
                    output = subgraph.tensors[operator.outputs[0]].name if len(operator.outputs) else b""
                    yield Finding(_text(subgraph.name), name, _text(output), reason)


def _not_built_in(model: Any, subgraph: Any, operator: Any, code: Any, name: str) -> str | None:
    if name == "CUSTOM":
        return f"{_text(code.customCode)} is no built-in operator"
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return "tflite-runtime 2.14 does not know it" if number > _LAST_OF_2_14 else None


def _too_new(model: Any, subgraph: Any, operator: Any, code: Any, name: str) -> str | None:
    highest = _HIGHEST_VERSION.get(name)
    if highest is not None and code.version > highest:
        return f"version {code.version} does not load on tflite-runtime 2.14"
    return None


def _wide_broadcast(model: Any, subgraph: Any, operator: Any, code: Any, name: str) -> str | None:
    if name not in _BROADCASTING:
        return None
    shapes = sorted({tuple(_shape(subgraph, index)) for index in operator.inputs}, key=len)
    if len(shapes) < 2 or len(shapes[-1]) <= 4:
        return None
    # A scalar, and a vector along the last axis, take a fast path in the arithmetic kernels.
    fast = len(shapes) == 2 and (shapes[0] == () or (len(shapes[0]) == 1 and shapes[0][0] == shapes[1][-1]))
    if fast and name in _ARITHMETIC:
        return None
    return f"a broadcast of {shapes} aborts tflite-runtime 2.14, which takes four axes"


def _several_reversed(model: Any, subgraph: Any, operator: Any, code: Any, name: str) -> str | None:
    if name == "REVERSE_V2" and int(np.prod(_shape(subgraph, operator.inputs[1]))) > 1:
        return "tflite-runtime 2.14 turns several axes around wrongly"
    return None


def _rank(model: Any, subgraph: Any, operator: Any, code: Any, name: str) -> str | None:
    highest = _HIGHEST_RANK.get(name)
    rank = len(_shape(subgraph, operator.inputs[0])) if highest is not None else 0
    if highest is not None and rank > highest:
        return f"rank {rank}, a runtime takes {highest}"
    return None


_Rule = Callable[[Any, Any, Any, Any, str], str | None]
_RULES: tuple[_Rule, ...] = (_not_built_in, _too_new, _wide_broadcast, _several_reversed, _rank)


def _shape(subgraph: Any, index: int) -> list[int]:
    shape = subgraph.tensors[index].shape
    return [] if shape is None else [int(size) for size in shape]


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
