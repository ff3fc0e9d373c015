"""Recurrent layers whose forward and backward passes are TFLite built-in operators.

Keras loops over a sequence with tensor lists, which TFLite cannot differentiate and runs slowly. While a
model is traced inside :func:`trainable_recurrence`, its recurrent layers are written out instead: a step is
one product with thin matrices (the batch comes last) and a few elementwise operators; the backward pass is
by hand, and the weights' gradients are one product over all steps. Long sequences become blocks of steps
that share one subgraph.
"""

from __future__ import annotations

from .interception import trainable_recurrence

__all__ = ["trainable_recurrence"]
