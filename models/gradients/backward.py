"""The backward pass of a graph whose operators were created under the registry's gradients."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ...errors import UncoveredOperatorError
from .broadcast import OPERATORS
from .registry import lower


def differentiate(loss: tf.Tensor, sources: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """The gradient of a scalar by each source, None where it does not depend on it.

    Only what the sources need is built: the backward graph of a frozen layer below the first trained one does
    not exist.

    Raises:
        UncoveredOperatorError: An operator on the way has no gradient at all.
    """
    graph = tf.compat.v1.get_default_graph()
    before = {op.name for op in graph.get_operations()}
    try:
        gradients = tf.gradients(loss, list(sources))
    except LookupError as error:
        raise UncoveredOperatorError(f"Expected operators with a gradient: {error}.") from error
    found = [gradient for gradient in gradients if gradient is not None]
    lowered = iter(lower(graph, found, training=True, already=before, operators=(*OPERATORS, "AddN")))
    return [None if gradient is None else next(lowered) for gradient in gradients]
