"""The registry: which TensorFlow operators have a backward pass made of TFLite built-in operators.

Three kinds of rules, each by the name of a TensorFlow operator:

* :func:`gradient` registers a backward pass, applied with ``gradient_override_map`` around ``tf.gradients``;
* :func:`lowering` replaces the operator in the forward graph, where TFLite has none or a slow one;
* :func:`native` lists operators whose own TensorFlow gradient already consists of built-in operators.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

import tensorflow as tf

from ...errors import UncoveredOperatorError

GradientFunction = Callable[..., "tf.Tensor | tuple[tf.Tensor | None, ...] | list[tf.Tensor | None] | None"]
LoweringFunction = Callable[["tf.Operation", bool], "tf.Tensor | None"]

_PREFIX = "HedgerowGradient>"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one TensorFlow operator is differentiated or replaced.

    Attributes:
        operator: Name of the TensorFlow operator.
        family: What kind of operator it is; the module that registers it.
        kind: ``gradient``, ``lowering`` or ``native``.
        note: How, in a few words, for the table in the documentation.
    """

    operator: str
    family: str
    kind: str
    note: str


_gradients: dict[str, Rule] = {}
_lowerings: dict[str, Rule] = {}
_natives: dict[str, Rule] = {}
_lowering_functions: dict[str, LoweringFunction] = {}


def gradient(*operators: str, note: str) -> Callable[[GradientFunction], GradientFunction]:
    """Registers a function ``(op, *output_gradients) -> input gradients`` as the backward pass of operators.

    The function must emit TFLite built-in operators only, with static shapes and broadcasts of rank 4 at
    most.

    Args:
        *operators: Names of TensorFlow operators.
        note: How it works, in a few words.
    """

    def register(function: GradientFunction) -> GradientFunction:
        for operator in operators:
            tf.RegisterGradient(_PREFIX + operator)(function)
            _gradients[operator] = Rule(operator, _family(function), "gradient", note)
        return function

    return register


def lowering(*operators: str, note: str) -> Callable[[LoweringFunction], LoweringFunction]:
    """Registers a function ``(op, training) -> replacement of its first output`` or None to leave it alone.

    Args:
        *operators: Names of TensorFlow operators.
        note: What it is replaced by, in a few words.
    """

    def register(function: LoweringFunction) -> LoweringFunction:
        for operator in operators:
            _lowering_functions[operator] = function
            _lowerings[operator] = Rule(operator, _family(function), "lowering", note)
        return function

    return register


def native(*operators: str, family: str, note: str = "TensorFlow's own gradient") -> None:
    """Lists operators whose TensorFlow gradient converts to built-in operators as it is."""
    for operator in operators:
        _natives[operator] = Rule(operator, family, "native", note)


def rules() -> tuple[Rule, ...]:
    """Every rule, by family and operator: what the table in docs/trainable-graph.md is made of."""
    everything = [*_gradients.values(), *_lowerings.values(), *_natives.values()]
    return tuple(sorted(everything, key=lambda rule: (rule.family, rule.operator, rule.kind)))


def override_gradients(graph: tf.Graph) -> AbstractContextManager[None]:
    """Makes operators created inside the context differentiate by the registered backward passes."""
    override: AbstractContextManager[None] = graph.gradient_override_map(
        {operator: _PREFIX + operator for operator in _gradients}
    )
    return override


def lower(
    graph: tf.Graph,
    tensors: list[tf.Tensor],
    *,
    training: bool,
    already: Collection[str] = (),
    operators: Collection[str] | None = None,
) -> list[tf.Tensor]:
    """Replaces operators of a graph by their lowerings, in place.

    Args:
        graph: The graph under construction; consumers of a replaced tensor read its replacement afterwards.
        tensors: Tensors the caller holds.
        training: Whether a backward pass follows.
        already: Names of operations to leave alone.
        operators: Which operators to replace; None for all that have a lowering.

    Returns:
        ``tensors``, each replaced where its operator was.
    """
    replaced: dict[str, tf.Tensor] = {}
    wanted = _lowering_functions.keys() if operators is None else operators
    for op in [op for op in graph.get_operations() if op.type in wanted and op.name not in already]:
        old = op.outputs[0]
        consumers = [(consumer, index) for consumer in old.consumers() for index in _uses(consumer, old)]
        with graph.name_scope(f"{op.name}/"):
            new = _lowering_functions[op.type](op, training)
        if new is None:
            continue
        if new.shape != old.shape:
            raise UncoveredOperatorError(
                f"The lowering of {op.type} in {op.name!r} gave {new.shape}, expected {old.shape}.",
                layer=op.name,
            )
        for consumer, index in consumers:
            consumer._update_input(index, new)
        replaced[old.name] = new
    return [replaced.get(tensor.name, tensor) for tensor in tensors]


def _uses(consumer: tf.Operation, tensor: tf.Tensor) -> list[int]:
    return [index for index, used in enumerate(consumer.inputs) if used is tensor]


def _family(function: Callable[..., object]) -> str:
    return function.__module__.rsplit(".", 1)[-1]
