"""Connectionist temporal classification (Graves et al. 2006) as built-in operators.

The forward variables of a label sequence and the backward ones obey one recursion: the backward is the
forward of the reversed sequence. Both run at once, as 2B rows of one scan in log space, and the gradient is
the softmax minus the posterior of each class, without differentiating through the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from ...errors import LossError
from .loss import Loss

IMPOSSIBLE = -1e30
"""The log-probability of what cannot be: finite, because -inf minus -inf is NaN."""

BLOCK = 64
"""Steps unrolled at once. Longer sequences loop over blocks: unrolling all would convert for minutes."""

RESCALE = 8
"""Every so many steps the scan's largest value is brought back to 0, where float32 is dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CTC(Loss):
    """Minus the log-probability of a label sequence, summed over its alignments with T steps of logits.

    Values are those of `keras.losses.CTC`: the output is always logits [B, T, C], all T steps count. Labels
    fill their row from the left; the rest is the blank's index or negative.

    Attributes:
        blank_index: The class that means "no label". Keras has 0.
        max_label_length: Width of the targets; by default T, the longest that can be aligned at all.
        zero_infinity: A label sequence that cannot be aligned with T steps has loss and gradient 0. Otherwise
            its loss is infinite, as Keras's is, and the optimizer undoes the step.
    """

    name: ClassVar[str] = "ctc"

    blank_index: int = 0
    max_label_length: int | None = None
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        if self.max_label_length is not None and self.max_label_length < 1:
            raise LossError(f"ctc expects max_label_length >= 1, received {self.max_label_length}.")

    def target_spec(self, output_shape: Sequence[int]) -> tf.TensorSpec:
        """int32 [B, max_label_length]."""
        if len(output_shape) != 3 or output_shape[2] < 2:
            raise LossError(
                f"ctc expects an output of shape [batch, steps, classes] with at least 2 classes, "
                f"received {list(output_shape)}.",
                remedy="End the model in a Dense layer with a unit per label and one for the blank.",
            )
        if not 0 <= self.blank_index < output_shape[2]:
            raise LossError(
                f"ctc expects a blank_index below the {output_shape[2]} classes, received {self.blank_index}."
            )
        return tf.TensorSpec([output_shape[0], self.max_label_length or output_shape[1]], tf.int32)

    def label_count(self, output_shape: Sequence[int]) -> int:
        """The size of the output's last axis, the blank included."""
        return output_shape[2]

    def per_example(
        self, y: tf.Tensor, output: tf.Tensor, weight: tf.Tensor, *, from_logits: bool = False
    ) -> tf.Tensor:
        """See `Loss.per_example`."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def losses(output: tf.Tensor) -> tuple[tf.Tensor, Any]:
            log_probability = tf.nn.log_softmax(output)
            likelihood, posterior = _align(log_probability, y, self.blank_index)
            possible = tf.sign(tf.nn.relu(likelihood - 0.5 * IMPOSSIBLE))
            value = -likelihood * possible
            if not self.zero_infinity:
                value = value - tf.math.log(possible)

            def backward(upstream: tf.Tensor) -> tf.Tensor:
                scale = tf.reshape(upstream * possible, [-1, 1, 1])
                return (tf.exp(log_probability) - posterior) * scale

            return value, backward

        return losses(output)


def _align(log_probability: tf.Tensor, y: tf.Tensor, blank_index: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum over all alignments.

    Args:
        log_probability: float32 [B, T, C].
        y: int32 [B, L].
        blank_index: The blank's class.

    Returns:
        The log-likelihood of each example, [B], and the posterior probability of each class at each step,
        [B, T, C].
    """
    states, skip, end = _lattice(y, log_probability.shape[2], blank_index)
    emission = tf.transpose(tf.matmul(log_probability, states, transpose_b=True), [1, 0, 2])
    # Without its largest value per step the scan stays near 0.
    scale = tf.reduce_max(emission, 2, keepdims=True)
    emission = emission - scale
    # Before the first step a path is in the first blank, or, backwards, in the last one.
    start = tf.one_hot([0] * y.shape[0], states.shape[1])
    scan, offset = _scan(
        tf.concat([emission, _mirror(emission)], 1),
        _log(tf.concat([start, tf.reverse(end, [1])], 0)),
        _log(tf.concat([skip, _entered_backwards(skip)], 0)),
    )
    forward, backward = scan[:, : y.shape[0]], _mirror(scan[:, y.shape[0] :])
    final = forward[-1] + _log(end + tf.pad(end[:, 1:], [[0, 0], [0, 1]]))
    top = tf.maximum(tf.reduce_max(final, 1, keepdims=True), IMPOSSIBLE)
    likelihood = top + tf.math.log(tf.reduce_sum(tf.exp(final - top), 1, keepdims=True))
    # At every step exactly one state is occupied, so the softmax divides by the likelihood.
    occupied = tf.transpose(tf.nn.softmax(forward + backward - emission), [1, 0, 2])
    likelihood = tf.reshape(likelihood + offset[: y.shape[0]], [-1]) + tf.reduce_sum(scale, [0, 2])
    return likelihood, tf.matmul(occupied, states)


def _lattice(y: tf.Tensor, classes: int, blank_index: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The states blank, label 1, blank, label 2, ..., blank of each example: S = 2L + 1.

    Returns:
        The class of each state as one-hot rows [B, S, C]; 1 for each state that may be entered from the one
        before the previous, [B, S]; and 1 for the last blank, [B, S].
    """
    batch, length = y.shape
    blank = tf.reshape(tf.one_hot(blank_index, classes), [1, 1, classes])
    labels = tf.one_hot(y, classes)
    present = tf.reduce_sum(labels * (1.0 - blank), 2)
    # Whatever encodes "no label" emits a blank; such states lie behind the end and are never occupied.
    labels = labels * (1.0 - blank) + blank * tf.reshape(1.0 - present, [batch, length, 1])
    repeated = tf.pad(tf.reduce_sum(labels[:, 1:] * labels[:, :-1], 2), [[0, 0], [1, 0]])
    ends = tf.pad(present, [[0, 0], [1, 0]], constant_values=1.0) - tf.pad(present, [[0, 0], [0, 1]])
    return (
        _interleave(tf.tile(blank, [batch, length + 1, 1]), labels),
        _interleave(tf.zeros([batch, length + 1]), present * (1.0 - repeated)),
        _interleave(ends, tf.zeros([batch, length])),
    )


def _interleave(blanks: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """[B, L + 1, ...] and [B, L, ...] to [B, 2L + 1, ...], in turn."""
    pairs = tf.stack([blanks[:, :-1], labels], 2)
    shape = [labels.shape[0], 2 * labels.shape[1], *labels.shape[2:]]
    return tf.concat([tf.reshape(pairs, shape), blanks[:, -1:]], 1)


def _mirror(steps: tf.Tensor) -> tf.Tensor:
    """[T, B, S] with time and states reversed, one axis at a time: 2.14 reverses two at once wrongly."""
    return tf.reverse(tf.reverse(steps, [0]), [2])


def _entered_backwards(skip: tf.Tensor) -> tf.Tensor:
    """The skips of the mirrored lattice: into a state from where the forward one skipped to."""
    return tf.pad(tf.reverse(skip, [1])[:, :-2], [[0, 0], [2, 0]])


def _log(indicator: tf.Tensor) -> tf.Tensor:
    """0 where the indicator is 1, IMPOSSIBLE where it is 0."""
    return (1.0 - indicator) * IMPOSSIBLE


def _scan(emission: tf.Tensor, start: tf.Tensor, skip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The log-probability of being in each state after each step.

    Args:
        emission: float32 [T, R, S].
        start: float32 [R, S], of being in each state before the first step.
        skip: float32 [R, S], of being allowed to enter a state from the one before the previous.

    Returns:
        float32 [T, R, S], each row up to a constant, and the constant of the last step's rows, [R, 1].
    """
    steps, rows, width = emission.shape
    offset = tf.zeros([rows, 1])
    whole = steps // BLOCK
    if whole < 2:
        states, offset = _unrolled(emission, start, offset, skip)
        return tf.stack(states), offset
    blocks = tf.reshape(emission[: whole * BLOCK], [whole, BLOCK, rows, width])

    def advance(
        block: tf.Tensor, state: tf.Tensor, offset: tf.Tensor, history: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.TensorArray]:
        states, offset = _unrolled(tf.gather(blocks, block), state, offset, skip)
        return block + 1, states[-1], offset, history.write(block, tf.stack(states))

    history = tf.TensorArray(tf.float32, whole, element_shape=[BLOCK, rows, width])
    _, state, offset, history = tf.while_loop(
        lambda block, *_: block < whole,
        advance,
        (tf.constant(0), start, offset, history),
        maximum_iterations=whole,
    )
    scanned = tf.reshape(history.stack(), [whole * BLOCK, rows, width])
    if whole * BLOCK == steps:
        return scanned, offset
    rest, offset = _unrolled(emission[whole * BLOCK :], state, offset, skip)
    return tf.concat([scanned, tf.stack(rest)], 0), offset


def _unrolled(
    emission: tf.Tensor, state: tf.Tensor, offset: tf.Tensor, skip: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The states after each step of a block: stay, come from the previous state, or skip one."""
    states = []
    for step, emitted in enumerate(tf.unstack(emission), start=1):
        padded = tf.pad(state, [[0, 0], [2, 0]], constant_values=IMPOSSIBLE)
        stepped, skipped = padded[:, 1:-1], padded[:, :-2] + skip
        top = tf.maximum(tf.maximum(state, stepped), skipped)
        total = tf.exp(state - top) + tf.exp(stepped - top) + tf.exp(skipped - top)
        state = top + tf.math.log(total) + emitted
        if step % RESCALE == 0:
            largest = tf.reduce_max(state, 1, keepdims=True)
            state, offset = state - largest, offset + largest
        states.append(state)
    return states, offset
