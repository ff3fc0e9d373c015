"""What trainable_recurrence does to Keras, and that it undoes it."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import backend

from hedgerow.errors import DynamicShapeError, RecurrentLayerError
from hedgerow.models.recurrent import trainable_recurrence


def kerass_functions() -> list[Any]:
    layers = keras.layers
    names = [(layers.RNN, "call"), (layers.RNN, "inner_loop"), (layers.LSTM, "inner_loop"), (backend, "rnn")]
    return [getattr(owner, name) for owner, name in names]


def operators(layer: keras.layers.Layer, spec: tf.TensorSpec, **options: Any) -> set[str]:
    """Names of the operators that a traced call consists of."""

    def run(x: tf.Tensor) -> Any:
        with trainable_recurrence():
            return layer(x, **options)

    graph = tf.function(run, autograph=False).get_concrete_function(spec).graph
    return {operation.type for operation in graph.get_operations()}


def test_leaving_restores_keras() -> None:
    before = kerass_functions()
    with trainable_recurrence():
        assert all(own is not original for own, original in zip(kerass_functions(), before, strict=True))
        with trainable_recurrence(gradients=False):
            pass
    assert kerass_functions() == before


def test_an_error_restores_keras() -> None:
    before = kerass_functions()
    with pytest.raises(RuntimeError, match="on purpose"), trainable_recurrence():
        raise RuntimeError("on purpose")
    assert kerass_functions() == before


def test_other_threads_keep_kerass_loops() -> None:
    layer = keras.layers.LSTM(2)
    layer.build((1, 3, 2))
    found: list[set[str]] = []

    def trace() -> None:
        function = tf.function(lambda x: layer(x), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec([1, 3, 2])).graph
        found.append({operation.type for operation in graph.get_operations()})

    with trainable_recurrence():
        thread = threading.Thread(target=trace)
        thread.start()
        thread.join()
        trace()
    assert "StatelessWhile" in found[0] or "While" in found[0]
    assert not {"StatelessWhile", "While"} & found[1]


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_no_loops_and_no_lists(kind: str) -> None:
    layer = getattr(keras.layers, kind)(3, return_sequences=True)
    found = operators(layer, tf.TensorSpec([2, 5, 4]))
    assert not {name for name in found if "While" in name or "TensorList" in name}


def test_stateful_is_refused() -> None:
    layer = keras.layers.GRU(2, stateful=True, name="keeper")
    layer.build((2, 3, 2))
    with pytest.raises(RecurrentLayerError, match=r"'keeper' has stateful=True"), trainable_recurrence():
        layer(tf.ones([2, 3, 2]))


@pytest.mark.parametrize("shape", [(None, 3, 2), (2, None, 2)])
def test_open_sizes_are_refused(shape: tuple[int | None, ...]) -> None:
    layer = keras.layers.LSTM(2, name="open")
    layer.build((2, 3, 2))
    with pytest.raises(DynamicShapeError, match="'open'"):
        operators(layer, tf.TensorSpec(shape))


def test_a_model_can_be_built_inside() -> None:
    with trainable_recurrence():
        model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(2)])
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_dropout_is_absent_in_inference(kind: str) -> None:
    layer = getattr(keras.layers, kind)(3, dropout=0.5, recurrent_dropout=0.5, seed=1)
    layer.build((2, 5, 4))
    found = operators(layer, tf.TensorSpec([2, 5, 4]), training=False)
    assert not {name for name in found if "Random" in name or "Assign" in name}


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"dropout": 0.5, "recurrent_dropout": 0.5}])
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_dropout_is_kerass_in_training(kind: str, options: dict[str, float]) -> None:
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 4)), tf.float32)
    results = []
    for trainable in (False, True):
        keras.utils.set_random_seed(2)
        layer = getattr(keras.layers, kind)(3, seed=1, **options)
        layer.build((2, 5, 4))
        if trainable:
            with trainable_recurrence():
                results.append(layer(x, training=True).numpy())
        else:
            results.append(layer(x, training=True).numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
