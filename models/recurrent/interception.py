"""Keras's recurrent layers, made to write the trainable formulation while a model is traced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend as keras_backend
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from ...errors import DynamicShapeError, RecurrentLayerError
from .blocks import Blocks
from .layer import run_layer
from .stepwise import unrolled_rnn

# Unrolled, 128 steps of an LSTM take 8 s to convert and 380 KB; the time and the size grow with the length.
_UNROLLED_STEPS = 128
_exporting = threading.RLock()


@contextmanager
def trainable_recurrence(
    *, gradients: bool = True, unrolled_steps: int | None = None, block_steps: int = 16
) -> Iterator[None]:
    """Lets Keras's recurrent layers write forward and backward passes of TFLite built-in operators.

    Inside, calling or tracing a model with SimpleRNN, GRU, LSTM, Bidirectional or ``RNN(cell)`` layers
    gives the same numbers as outside, to rounding, and ``tf.gradients`` may be taken inside or after it.
    Keras's own cells with the activations tanh, sigmoid, hard_sigmoid, relu and linear follow a formula
    with a backward pass by hand; every other cell is written out step by step. Sizes must be fixed. On
    leaving, also by an error, Keras is as before.

    Only the thread that entered is affected; another thread that enters waits until the first has left.

    Args:
        gradients: Whether gradients will be taken. Without, long sequences keep nothing for a backward pass.
        unrolled_steps: The longest sequence that is written out in full, by default 128, and 2 blocks without
            gradients. Longer ones become blocks that share one subgraph, which keeps the file and the time to
            convert small.
        block_steps: Steps in a block.

    Raises:
        RecurrentLayerError: A layer is stateful.
        DynamicShapeError: The batch or the length of a sequence is not known.
    """
    limit = (
        unrolled_steps if unrolled_steps is not None else (_UNROLLED_STEPS if gradients else 2 * block_steps)
    )
    with _exporting, ExitStack() as restored:
        substitution = _Substitution(Blocks(gradients, limit, block_steps))
        for owner, name, replacement in substitution.replacements():
            original = vars(owner)[name]
            setattr(owner, name, replacement(original))
            restored.callback(setattr, owner, name, original)
        yield


class _Substitution:
    """What replaces Keras's functions, for one thread."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._thread = threading.get_ident()
        self._training: list[bool] = []
        self._step_by_step = vars(keras.layers.RNN)["inner_loop"]

    def replacements(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Lists what is replaced: owner, name, and a function from the original to its replacement."""
        layers = keras.layers
        loops = [(owner, "inner_loop", self._inner_loop) for owner in (layers.RNN, layers.GRU, layers.LSTM)]
        masks = [
            (DropoutRNNCell, name, self._in_training_only)
            for name in ("get_dropout_mask", "get_recurrent_dropout_mask")
        ]
        return [
            (layers.RNN, "call", self._call),
            (layers.RNN, "_maybe_config_dropout_masks", self._in_training_only),
            *loops,
            *masks,
            (keras_backend, "rnn", self._rnn),
        ]

    def _applies(self) -> bool:
        return threading.get_ident() == self._thread and not in_symbolic_scope()

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            layer: keras.layers.RNN,
            sequences: tf.Tensor,
            initial_state: Any = None,
            mask: Any = None,
            training: Any = False,
        ) -> Any:
            if self._applies():
                _check(layer, sequences)
            self._training.append(bool(training))
            try:
                return original(layer, sequences, initial_state=initial_state, mask=mask, training=training)
            finally:
                self._training.pop()

        return call

    def _inner_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def inner_loop(
            layer: keras.layers.RNN,
            sequences: tf.Tensor,
            initial_state: Sequence[Any],
            mask: Any,
            training: Any = False,
        ) -> Any:
            if not self._applies():
                return original(layer, sequences, initial_state, mask, training=training)
            mask = keras.tree.flatten(mask)[0] if keras.tree.is_nested(mask) else mask
            results = run_layer(
                layer, sequences, initial_state, mask, training=bool(training), blocks=self._blocks
            )
            if results is not None:
                return results
            return self._step_by_step(layer, sequences, initial_state, mask, training=training)

        return inner_loop

    def _in_training_only(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(owner: Any, *arguments: Any) -> Any:
            if self._applies() and self._training and not self._training[-1]:
                return None
            return original(owner, *arguments)

        return method

    def _rnn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rnn(*arguments: Any, **options: Any) -> Any:
            return (unrolled_rnn if self._applies() else original)(*arguments, **options)

        return rnn


def _check(layer: keras.layers.RNN, sequences: tf.Tensor) -> None:
    if layer.stateful:
        raise RecurrentLayerError(
            f"Expected a recurrent layer that starts each batch anew, {layer.name!r} has stateful=True.",
            layer=layer.name,
        )
    shape = sequences.shape
    if any(size is None for size in shape):
        raise DynamicShapeError(
            f"Expected fixed sizes for the sequences of {layer.name!r}, received {tuple(shape)}.",
            layer=layer.name,
        )
