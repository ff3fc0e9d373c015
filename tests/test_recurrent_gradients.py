"""Recurrent layers in the trainable formulation against Keras's own automatic differentiation, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.models.recurrent import trainable_recurrence

TOLERANCE = 1e-10
ACTIVATIONS = ("tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "softplus")


@dataclass(frozen=True)
class Case:
    """A layer, and what it is called with."""

    kind: str
    options: dict[str, Any]
    shape: tuple[int, int, int]
    masked: bool
    initial: bool
    seed: int


class Doubling(keras.layers.Layer):
    """A cell that Keras does not have, with two states of different width and a stateless output."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.state_size = [units, 2 * units]
        self.output_size = units

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.wide = self.add_weight(shape=(self.units, 2 * self.units), name="wide")

    def call(self, x: Any, states: Any) -> Any:
        h, c = states
        c = 0.5 * c + keras.ops.tanh(keras.ops.matmul(h, self.wide))
        h = keras.ops.tanh(keras.ops.matmul(x, self.kernel) + c[:, : self.units] * c[:, self.units :])
        return h, [h, c]


def build(case: Case) -> keras.layers.RNN:
    options = {"return_state": True, "dtype": "float64", **case.options}
    units = options.pop("units")
    if case.kind == "custom":
        options.pop("activation", None)
        layer = keras.layers.RNN(Doubling(units, dtype="float64"), **options)
    elif case.kind == "stacked cells":
        options.pop("activation", None)
        cells = [keras.layers.LSTMCell(units, dtype="float64"), keras.layers.GRUCell(2, dtype="float64")]
        layer = keras.layers.RNN(keras.layers.StackedRNNCells(cells, dtype="float64"), **options)
    else:
        layer = getattr(keras.layers, case.kind)(units, **options)
    layer.build(case.shape)
    random = np.random.default_rng(case.seed)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape) * 0.7)
    return layer


def inputs(case: Case, layer: keras.layers.RNN) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
    random = np.random.default_rng(case.seed + 1)
    batch, steps, _ = case.shape
    x = tf.constant(random.normal(size=case.shape))
    mask = tf.constant(random.random((batch, steps)) > 0.4) if case.masked else None
    states = None
    if case.initial:
        states = keras.tree.map_structure(
            lambda state: tf.constant(random.normal(size=state.shape)), layer.get_initial_state(batch)
        )
    return x, mask, states


def objective(outputs: Any) -> tf.Tensor:
    """A sum that tells every element of every output apart."""
    flat = [tf.reshape(output, [-1]) for output in keras.tree.flatten(outputs)]
    row = tf.concat(flat, 0)
    return tf.reduce_sum(tf.sin(row + tf.range(row.shape[0], dtype=row.dtype)))


def expected(layer: Any, x: tf.Tensor, mask: Any, states: Any) -> list[tf.Tensor]:
    sources = [x, *keras.tree.flatten(states or []), *(weight.value for weight in layer.trainable_weights)]
    with tf.GradientTape() as tape:
        tape.watch(sources[: -len(layer.trainable_weights)])
        outputs = keras.tree.flatten(layer(x, initial_state=states, mask=mask))
        total = objective(outputs)
    return [*outputs, *tape.gradient(total, sources)]


def assert_equal(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for own, reference in zip(found, wanted, strict=True):
        scale = max(float(np.abs(reference).max()), 1e-3)
        assert own.shape == reference.shape
        assert float(np.abs(np.asarray(own) - np.asarray(reference)).max()) / scale < TOLERANCE


def traced(layer: Any, x: tf.Tensor, mask: Any, states: Any, **settings: int) -> list[tf.Tensor]:
    """Outputs and gradients of the formulation, through a graph."""

    @tf.function(autograph=False)
    def run(x: tf.Tensor) -> list[tf.Tensor]:
        with trainable_recurrence(**settings):
            outputs = keras.tree.flatten(layer(x, initial_state=states, mask=mask))
            weights = [weight.value for weight in layer.trainable_weights]
            sources = [x, *keras.tree.flatten(states or []), *weights]
            return [*outputs, *tf.gradients(objective(outputs), sources)]

    return run(x)


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...]) -> Case:
    kind = draw(st.sampled_from(kinds))
    options: dict[str, Any] = {
        "units": draw(st.integers(1, 5)),
        "return_sequences": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
        "zero_output_for_mask": draw(st.booleans()),
    }
    if kind in ("SimpleRNN", "GRU", "LSTM"):
        options["use_bias"] = draw(st.booleans())
        options["activation"] = draw(st.sampled_from(ACTIVATIONS))
    if kind in ("GRU", "LSTM"):
        options["recurrent_activation"] = draw(st.sampled_from(("sigmoid", "hard_sigmoid", "tanh")))
    if kind == "GRU":
        options["reset_after"] = draw(st.booleans())
    return Case(
        kind=kind,
        options=options,
        shape=(draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 5))),
        masked=draw(st.booleans()),
        initial=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(("SimpleRNN", "GRU", "LSTM", "custom", "stacked cells")), block_steps=st.integers(1, 4))
def test_outputs_and_gradients_are_kerass(case: Case, block_steps: int) -> None:
    layer = build(case)
    x, mask, states = inputs(case, layer)
    wanted = expected(layer, x, mask, states)
    with trainable_recurrence(block_steps=block_steps):
        found = expected(layer, x, mask, states)
    assert_equal(found, wanted)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases(("SimpleRNN", "GRU", "LSTM")), block_steps=st.integers(1, 4))
def test_shared_blocks_give_the_same(case: Case, block_steps: int) -> None:
    layer = build(case)
    x, mask, states = inputs(case, layer)
    found = traced(layer, x, mask, states, unrolled_steps=0, block_steps=block_steps)
    assert_equal(found, expected(layer, x, mask, states))


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_gradients_in_a_graph(kind: str) -> None:
    case = Case(kind, {"units": 3, "return_sequences": True}, (2, 5, 4), masked=True, initial=True, seed=3)
    layer = build(case)
    x, mask, states = inputs(case, layer)
    assert_equal(traced(layer, x, mask, states), expected(layer, x, mask, states))


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
@pytest.mark.parametrize("masked", [False, True])
def test_bidirectional(merge_mode: str | None, masked: bool) -> None:
    keras.utils.set_random_seed(4)
    inner = keras.layers.LSTM(3, return_sequences=True, dtype="float64")
    layer = keras.layers.Bidirectional(inner, merge_mode=merge_mode, dtype="float64")
    layer.build((2, 6, 4))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 4)))
    mask = tf.constant([[True] * 4 + [False] * 2, [False] + [True] * 5]) if masked else None
    wanted = expected(layer, x, mask, None)
    with trainable_recurrence():
        assert_equal(expected(layer, x, mask, None), wanted)


def test_without_gradients_the_outputs_are_the_same() -> None:
    case = Case("LSTM", {"units": 3, "return_sequences": True}, (2, 9, 4), masked=True, initial=True, seed=3)
    layer = build(case)
    x, mask, states = inputs(case, layer)

    @tf.function(autograph=False)
    def run(x: tf.Tensor) -> Any:
        with trainable_recurrence(gradients=False, unrolled_steps=0, block_steps=4):
            return layer(x, initial_state=states, mask=mask)

    assert_equal(list(run(x)), list(layer(x, initial_state=states, mask=mask)))


def test_one_step_by_hand() -> None:
    """LSTM(1) on a 1: i = f = o = sigmoid(1), candidate tanh(1), c = i * candidate, h = o * tanh(c)."""
    layer = keras.layers.LSTM(1, dtype="float64")
    layer.build((1, 1, 1))
    layer.set_weights([np.ones((1, 4)), np.ones((1, 4)), np.zeros(4)])
    x = tf.ones([1, 1, 1], tf.float64)
    with trainable_recurrence(), tf.GradientTape() as tape:
        tape.watch(x)
        h = layer(x)
    gate = 1 / (1 + np.exp(-1.0))
    carry = gate * np.tanh(1.0)
    assert float(h[0, 0]) == pytest.approx(gate * np.tanh(carry), rel=1e-12)
    d_gate = gate * (1 - gate)
    d_carry = d_gate * np.tanh(1.0) + gate * (1 - np.tanh(1.0) ** 2)
    slope = d_gate * np.tanh(carry) + gate * (1 - np.tanh(carry) ** 2) * d_carry
    assert float(tape.gradient(h, x)[0, 0, 0]) == pytest.approx(slope, rel=1e-12)
