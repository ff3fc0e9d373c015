"""CTC equals the sum over all alignments, TensorFlow's own, and Keras's."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.models import losses

seeds = st.integers(0, 2**32 - 1)


def device_ctc(loss: losses.CTC, y: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses [B], and the gradient of their sum."""
    output = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(output)
        values = loss.per_example(tf.constant(y, tf.int32), output, tf.ones(len(y)))
    return values.numpy(), tape.gradient(values, output).numpy()


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


def enumerated_ctc(labels: list[int], logits: np.ndarray, blank: int) -> tuple[float, np.ndarray]:
    """By the definition, in float64: every path over T steps that collapses to the labels."""
    steps, classes = logits.shape
    paths = [p for p in itertools.product(range(classes), repeat=steps) if collapsed(p, blank) == labels]
    output = tf.constant(logits, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(output)
        chosen = tf.gather(tf.nn.log_softmax(output), paths, axis=1, batch_dims=0)
        diagonal = tf.stack([chosen[step, :, step] for step in range(steps)])
        value = -tf.reduce_logsumexp(tf.reduce_sum(diagonal, 0))
    return float(value), tape.gradient(value, output).numpy()


def padded(labels: list[list[int]], width: int, padding: int) -> np.ndarray:
    return np.int32([row + [padding] * (width - len(row)) for row in labels])


def alignable(random: np.random.Generator, classes: int, steps: int, width: int, blank: int) -> list[int]:
    """Labels that T steps can emit: a repeated label needs a blank between."""
    length = random.integers(0, width + 1)
    labels = [int(label) for label in random.choice([c for c in range(classes) if c != blank], length)]
    while len(labels) + sum(a == b for a, b in itertools.pairwise(labels)) > steps:
        labels.pop()
    return labels


@given(
    steps=st.integers(1, 5), classes=st.integers(2, 4), width=st.integers(1, 4), seed=seeds, data=st.data()
)
@settings(max_examples=25, deadline=None)
def test_the_loss_is_the_sum_over_all_alignments(
    steps: int, classes: int, width: int, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    blank = data.draw(st.sampled_from([0, classes - 1]))
    labels = [alignable(random, classes, steps, width, blank) for _ in range(2)]
    logits = random.normal(size=(2, steps, classes), scale=data.draw(st.sampled_from([0.1, 2.0])))
    logits = logits.astype(np.float32)
    loss = losses.CTC(blank_index=blank, max_label_length=width)
    for padding in (-1, blank):
        values, gradients = device_ctc(loss, padded(labels, width, padding), logits)
        for row in range(2):
            value, gradient = enumerated_ctc(labels[row], logits[row], blank)
            np.testing.assert_allclose(values[row], value, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(gradients[row], gradient, atol=1e-5 * max(1, np.abs(gradient).max()))


def scanned_ctc(labels: list[int], logits: np.ndarray) -> tuple[float, np.ndarray]:
    """The forward recursion of the paper in float64, differentiated by autodiff."""
    extended = [0]
    for label in labels:
        extended += [label, 0]
    skips = [place >= 2 and label not in (0, extended[place - 2]) for place, label in enumerate(extended)]
    never = tf.fill([len(extended)], tf.constant(-1e300, tf.float64))
    output = tf.constant(logits, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(output)
        emission = tf.gather(tf.nn.log_softmax(output), extended, axis=1)
        state = tf.where(np.arange(len(extended)) < 2, emission[0], never)
        for step in range(1, len(logits)):
            before = tf.pad(state, [[2, 0]], constant_values=-1e300)
            ways = tf.stack([state, before[1:-1], tf.where(skips, before[:-2], never)])
            state = tf.reduce_logsumexp(ways, 0) + emission[step]
        value = -tf.reduce_logsumexp(state[-2:])
    return float(value), tape.gradient(value, output).numpy()


@pytest.mark.parametrize(
    ("steps", "classes", "width", "scale"), [(9, 4, 3, 1), (64, 8, 9, 3), (127, 5, 9, 1), (150, 30, 20, 3)]
)
def test_long_sequences_equal_the_recursion_in_float64(
    steps: int, classes: int, width: int, scale: float
) -> None:
    random = np.random.default_rng(steps)
    labels = [alignable(random, classes, steps, width, 0) for _ in range(2)]
    y, logits = padded(labels, width, 0), random.normal(size=(2, steps, classes), scale=scale)
    values, gradients = device_ctc(losses.CTC(max_label_length=width), y, logits)
    np.testing.assert_allclose(values, keras.losses.ctc(y, logits.astype(np.float32)), rtol=1e-6)
    for row in range(2):
        value, gradient = scanned_ctc(labels[row], logits[row].astype(np.float32))
        np.testing.assert_allclose(values[row], value, rtol=1e-6)
        np.testing.assert_allclose(gradients[row], gradient, atol=1e-5 * np.abs(gradient).max())


@given(batch=st.integers(1, 3), steps=st.integers(6, 40), classes=st.integers(3, 12), seed=seeds)
@settings(max_examples=8, deadline=None)
def test_values_and_gradients_equal_tensorflow(batch: int, steps: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = [alignable(random, classes, steps, 5, 0) for _ in range(batch)]
    y, logits = padded(labels, 5, 0), random.normal(size=(batch, steps, classes)).astype(np.float32)
    output = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(output)
        expected = tf.nn.ctc_loss(
            y, output, [len(row) for row in labels], [steps] * batch, logits_time_major=False, blank_index=0
        )
    values, gradient = device_ctc(losses.CTC(max_label_length=5), y, logits)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, tape.gradient(expected, output), atol=1e-5)


def test_two_steps_by_hand() -> None:
    # Uniform over blank and one label: of 4 paths, "a-", "-a" and "aa" collapse to "a", "--" to nothing.
    values, gradient = device_ctc(losses.CTC(max_label_length=1), np.int32([[1], [-1]]), np.zeros((2, 2, 2)))
    np.testing.assert_allclose(values, [-np.log(3 / 4), -np.log(1 / 4)], rtol=1e-6)
    # In two of those three paths step 1 is "a": softmax minus posterior is (1/2 - 1/3, 1/2 - 2/3).
    np.testing.assert_allclose(gradient[0], [[1 / 6, -1 / 6]] * 2, rtol=1e-5)
    np.testing.assert_allclose(gradient[1], [[-0.5, 0.5]] * 2, rtol=1e-5)


def test_labels_that_cannot_be_aligned_are_infinite_or_nothing() -> None:
    """`aa` takes three steps."""
    y, logits = np.int32([[1, 1], [1, 2]]), np.random.default_rng(0).normal(size=(2, 2, 3))
    values, gradient = device_ctc(losses.CTC(max_label_length=2), y, logits)
    assert np.isinf(values[0])
    assert np.isfinite(values[1])
    np.testing.assert_array_equal(gradient[0], 0)
    values, gradient = device_ctc(losses.CTC(max_label_length=2, zero_infinity=True), y, logits)
    assert values[0] == 0
    assert values[1] > 0
    np.testing.assert_array_equal(gradient[0], 0)


@pytest.mark.parametrize("scale", [30.0, 300.0, 1e4])
def test_confident_logits_underflow_nothing(scale: float) -> None:
    """Probabilities far below float32's smallest number; what remains is the rounding of the logits."""
    random = np.random.default_rng(1)
    labels = [[1, 2, 1], [3, 3]]
    logits = (random.normal(size=(2, 5, 4)) * scale).astype(np.float32)
    values, gradients = device_ctc(losses.CTC(max_label_length=3), padded(labels, 3, 0), logits)
    for row in range(2):
        value, gradient = enumerated_ctc(labels[row], logits[row], 0)
        np.testing.assert_allclose(values[row], value, rtol=1e-6)
        np.testing.assert_allclose(gradients[row], gradient, atol=1e-6 * scale)
