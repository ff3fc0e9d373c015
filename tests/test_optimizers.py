"""Optimizers follow Keras's own trajectory, and undo what is not finite."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow.errors import OptimizerError
from hedgerow.models import optimizers

SHAPES = ((5, 3), (3,), (2, 2, 3, 2), (2, 1, 2, 3, 2))

KERAS = {
    "sgd": lambda **common: keras.optimizers.SGD(0.05, **common),
    "momentum": lambda **common: keras.optimizers.SGD(0.05, momentum=0.9, **common),
    "nesterov": lambda **common: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, **common),
    "adam": lambda **common: keras.optimizers.Adam(0.05, **common),
    "adamw": lambda **common: keras.optimizers.AdamW(0.05, **common),
}


class Machine:
    """An optimizer with its weights, stepped outside any file."""

    def __init__(self, optimizer: optimizers.Optimizer, weights: list[np.ndarray]) -> None:
        self.optimizer = optimizer
        self.weights = [tf.Variable(weight) for weight in weights]
        self.statistic = tf.Variable([1.0, 2.0])
        self.slots = optimizer.slots(self.weights)

    @tf.function
    def _apply(self, gradients, loss, inputs, statistic, chosen):
        return self.optimizer.apply(
            gradients,
            [self.weights[place] for place in chosen],
            self.slots,
            inputs,
            loss=loss,
            updates=[(self.statistic, statistic)],
        )["finite"]

    def step(self, gradients, rate=0.05, mu=0.0, loss=1.0, statistic=(3.0, 4.0), chosen=None) -> float:
        inputs = {"learning_rate": tf.constant(rate), "proximal_mu": tf.constant(mu)}
        inputs = {name: inputs[name] for name in self.optimizer.inputs()}
        gradients = [tf.constant(gradient) for gradient in gradients]
        chosen = tuple(range(len(self.weights))) if chosen is None else chosen
        return float(self._apply(gradients, tf.constant(loss), inputs, tf.constant(statistic), chosen))

    def values(self) -> list[np.ndarray]:
        return [weight.numpy() for weight in self.weights]

    def everything(self) -> list[bytes]:
        return [v.numpy().tobytes() for v in (*self.weights, self.statistic, *self.slots.variables)]


def arrays(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape, scale=scale).astype(np.float32) for shape in SHAPES]


@pytest.mark.parametrize(
    "common",
    [{}, {"global_clipnorm": 0.5, "weight_decay": 0.01}],
    ids=["plain", "clipped and decayed"],
)
@pytest.mark.parametrize("name", KERAS)
def test_fifty_steps_follow_keras(name: str, common: dict[str, float]) -> None:
    """Gradients that depend on the weights, so that an error would grow, with a rate that changes."""
    start = arrays(0)
    reference = KERAS[name](**common)
    expected = [keras.Variable(weight) for weight in start]
    reference.build(expected)
    keras_step = tf.function(reference.apply)
    machine = Machine(optimizers.get(name, **common), start)
    for step in range(50):
        noise = arrays(step + 1, scale=0.3)
        rate = 0.05 * 0.98**step
        reference.learning_rate = rate
        keras_step([tf.constant(w.numpy() + n) for w, n in zip(expected, noise, strict=True)])
        assert machine.step([w + n for w, n in zip(machine.values(), noise, strict=True)], rate) == 1.0
    for value, variable in zip(machine.values(), expected, strict=True):
        np.testing.assert_allclose(value, variable.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KERAS)
def test_keras_objects_are_translated(name: str) -> None:
    assert optimizers.get(KERAS[name](global_clipnorm=2.0)) == optimizers.get(name, global_clipnorm=2.0)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("name", KERAS)
def test_what_is_not_finite_changes_no_bit(name: str, clip: float | None) -> None:
    """In any gradient, the loss, a moving statistic or an input; before the first step and after it."""
    machine = Machine(optimizers.get(name, global_clipnorm=clip, proximal=True), arrays(0))
    for seed in (1, 2):
        before = machine.everything()
        for bad in (np.nan, np.inf, -np.inf):
            for place in range(len(SHAPES)):
                gradients = arrays(seed)
                gradients[place].flat[-1] = bad
                assert machine.step(gradients) == 0.0
            for fault in ({"loss": bad}, {"statistic": (1.0, bad)}, {"rate": bad}, {"mu": bad}):
                assert machine.step(arrays(seed), **fault) == 0.0
        assert machine.everything() == before
        assert machine.step(arrays(seed), mu=0.1) == 1.0
        assert machine.everything() != before


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_gradient_whose_square_overflows_is_undone(name: str) -> None:
    """It is finite, but it would make the second moment infinite for ever."""
    machine = Machine(optimizers.get(name), arrays(0))
    before, gradients = machine.everything(), arrays(1)
    gradients[0][0, 0] = 1e30
    assert machine.step(gradients) == 0.0
    assert machine.everything() == before


def test_a_skipped_step_is_not_counted() -> None:
    """Adam's bias correction goes on as if the step had not been."""
    through, interrupted = (Machine(optimizers.get("adam"), arrays(0)) for _ in range(2))
    for seed in (1, 2):
        through.step(arrays(seed))
        interrupted.step(arrays(seed))
        interrupted.step(arrays(seed), loss=np.nan)
    assert through.everything() == interrupted.everything()


@pytest.mark.parametrize("name", KERAS)
def test_reset_is_a_new_optimizer(name: str) -> None:
    machine = Machine(optimizers.get(name), arrays(0))
    for seed in (1, 2, 3):
        machine.step(arrays(seed))
    fresh = Machine(optimizers.get(name), machine.values())
    machine.optimizer.reset(machine.slots)
    for seed in (4, 5):
        machine.step(arrays(seed))
        fresh.step(arrays(seed))
    for value, expected in zip(machine.values(), fresh.values(), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", KERAS)
def test_a_weight_that_joins_late_has_fresh_slots(name: str) -> None:
    """`train_head` first, then `train`: as one Keras optimizer whose other gradients were zero before."""
    start = arrays(0)
    machine = Machine(optimizers.get(name, **({"weight_decay": None} if name == "adamw" else {})), start)
    reference = KERAS[name](**({"weight_decay": 0.0} if name == "adamw" else {}))
    expected = [keras.Variable(weight) for weight in start]
    for seed in (1, 2, 3):
        gradients = arrays(seed)
        head = [gradients[0], *(np.zeros_like(gradient) for gradient in gradients[1:])]
        reference.apply_gradients(zip(map(tf.constant, head), expected, strict=True))
        machine.step(gradients[:1], chosen=(0,))
    for weight, value in zip(start[1:], machine.values()[1:], strict=True):
        np.testing.assert_array_equal(value, weight)
    for seed in (4, 5, 6):
        reference.apply_gradients(zip(map(tf.constant, arrays(seed)), expected, strict=True))
        machine.step(arrays(seed))
    for value, variable in zip(machine.values(), expected, strict=True):
        np.testing.assert_allclose(value, variable.numpy(), rtol=1e-5, atol=1e-5)


def test_a_missing_gradient_leaves_its_weight_alone() -> None:
    optimizer = optimizers.get("adam")
    weights = [tf.Variable([1.0]), tf.Variable([2.0])]
    slots = optimizer.slots(weights)
    optimizer.apply(
        [None, tf.constant([1.0])],
        weights,
        slots,
        {"learning_rate": tf.constant(0.1)},
        loss=tf.constant(0.0),
    )
    assert weights[0].numpy() == 1.0
    np.testing.assert_allclose(weights[1], 1.9, rtol=1e-6)


def test_the_proximal_term_by_hand() -> None:
    # Anchor 1, weight 1 - 0.1 * 2 = 0.8; then the gradient is 2 + 0.5 * (0.8 - 1) = 1.9.
    optimizer = optimizers.get("sgd", proximal=True)
    weight = tf.Variable([1.0])
    slots = optimizer.slots([weight])
    inputs = {"learning_rate": tf.constant(0.1), "proximal_mu": tf.constant(0.5)}
    for expected in (0.8, 0.8 - 0.19):
        optimizer.apply([tf.constant([2.0])], [weight], slots, inputs, loss=tf.constant(0.0))
        np.testing.assert_allclose(weight, [expected], rtol=1e-6)
    # A new global model is a new anchor: at it, the term is nothing.
    weight.assign([5.0])
    optimizer.set_anchor(slots, [weight])
    optimizer.apply([tf.constant([2.0])], [weight], slots, inputs, loss=tf.constant(0.0))
    np.testing.assert_allclose(weight, [4.8], rtol=1e-6)


def test_clipping_by_hand() -> None:
    # The joint norm of (3) and (4) is 5: at most 1 leaves 0.6 and 0.8, at most 10 leaves them.
    for limit, expected in ((1.0, (-0.6, -0.8)), (10.0, (-3.0, -4.0))):
        optimizer = optimizers.get("sgd", global_clipnorm=limit)
        weights = [tf.Variable([0.0]), tf.Variable([0.0])]
        gradients = [tf.constant([3.0]), tf.constant([4.0])]
        inputs = {"learning_rate": tf.constant(1.0)}
        optimizer.apply(gradients, weights, optimizer.slots(weights), inputs, loss=tf.constant(0.0))
        np.testing.assert_allclose([float(weight[0]) for weight in weights], expected, rtol=1e-6)


def test_inputs_and_names() -> None:
    assert list(optimizers.get("adam").inputs()) == ["learning_rate"]
    assert list(optimizers.get("adam", proximal=True).inputs()) == ["learning_rate", "proximal_mu"]
    assert [optimizers.get(name).name for name in optimizers.NAMES] == [
        "sgd", "momentum", "adam", "adamw", "momentum",
    ]  # fmt: skip
    assert optimizers.get("sgd", momentum=0.5, nesterov=True) == optimizers.get("nesterov", momentum=0.5)
    assert optimizers.get("sgd", momentum=0.0) == optimizers.get("sgd")
    for name in KERAS:
        reference = getattr(keras.optimizers, {"adam": "Adam", "adamw": "AdamW"}.get(name, "SGD"))()
        assert np.float32(optimizers.get(name).default_learning_rate) == reference.learning_rate.numpy()


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: optimizers.get("lion"), ["lion", "adamw"]),
        (lambda: optimizers.get("sgd", beta_1=0.5), ["sgd", "weight_decay", "beta_1"]),
        (lambda: optimizers.get("momentum", momentum=1.5), ["(0, 1]", "1.5"]),
        (lambda: optimizers.get("adam", beta_2=1.0), ["[0, 1)", "1.0"]),
        (lambda: optimizers.get("adam", epsilon=0.0), ["epsilon > 0", "0.0"]),
        (lambda: optimizers.get("sgd", global_clipnorm=0.0), ["global_clipnorm > 0", "0.0"]),
        (lambda: optimizers.get("sgd", weight_decay=-1.0), ["weight_decay >= 0", "-1.0"]),
        (lambda: optimizers.get(3), ["3"]),
        (lambda: optimizers.get(optimizers.SGD(), momentum=0.5), ["SGD", "momentum"]),
        (lambda: optimizers.get(keras.optimizers.Lion()), ["Lion"]),
        (lambda: optimizers.get(keras.optimizers.Adam(amsgrad=True)), ["amsgrad=True", "Adam"]),
        (lambda: optimizers.get(keras.optimizers.SGD(clipvalue=1.0)), ["clipvalue=1.0"]),
    ],
)
def test_what_does_not_fit_is_said(attempt, words: list[str]) -> None:
    with pytest.raises(OptimizerError) as caught:
        attempt()
    assert all(word in str(caught.value) for word in words)
