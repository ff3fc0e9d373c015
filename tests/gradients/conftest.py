"""Compares the gradients of a trainable graph with float64 autodiff of the Keras model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow.hardware.runtime import installed
from hedgerow.models.gradients import differentiate, override_gradients
from hedgerow.models.trainable import lint
from hedgerow.models.trainable.call import call_model, input_specs
from hedgerow.models.trainable.conversion import convert
from hedgerow.models.trainable.file import read

Tensors = dict[str, np.ndarray]


@dataclass
class Case:
    """A model, inputs for it, and a gradient for each of its outputs.

    ``precision`` is the reference's: float64, but for MaxPool3D, which TensorFlow has in float32 only and
    which only moves numbers.
    """

    name: str
    build: Callable[[], keras.Model]
    inputs: list[np.ndarray]
    training: bool = True
    precision: str = "float64"

    def __post_init__(self) -> None:
        keras.utils.set_random_seed(1)
        self.model = self.build()
        generator = np.random.default_rng(len(self.name))
        for weight in self.model.weights:
            noise = generator.normal(size=weight.shape, scale=0.5)
            if weight.name in ("moving_variance", "gamma", "variance"):
                noise = np.abs(noise) + 0.5
            if "seed" not in weight.name:
                weight.assign(noise.astype(weight.dtype))
        self.weights = [weight.numpy() for weight in self.model.weights]
        self.batch = len(self.inputs[0])

    def tensors(self) -> Tensors:
        named = {f"x{i}": x for i, x in enumerate(self.inputs)}
        return (
            named
            | {f"w{i}": w for i, w in enumerate(self.weights)}
            | {f"r{i}": r for i, r in self.upstream()}
        )

    def upstream(self) -> list[tuple[int, np.ndarray]]:
        """A gradient for each output."""
        generator = np.random.default_rng(7)
        shapes = [(self.batch, *tensor.shape[1:]) for tensor in self.model.outputs]
        return [(i, generator.normal(size=shape).astype(np.float32)) for i, shape in enumerate(shapes)]

    def expected(self) -> Tensors:
        """Outputs, gradients and changed weights by Keras and autodiff, in the case's precision."""
        policy = keras.config.dtype_policy()
        keras.config.set_floatx(self.precision)
        keras.config.set_dtype_policy(self.precision)
        try:
            model = self.build()
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy(policy)
        assert all(weight.dtype == self.precision for weight in model.trainable_weights)
        for weight, value in zip(model.weights, self.weights, strict=True):
            weight.assign(value)
        inputs = [tf.constant(x.astype(self.precision) if x.dtype.kind == "f" else x) for x in self.inputs]
        trainable = [weight.value for weight in model.trainable_weights]
        sources = [x for x in inputs if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            structured = inputs[0] if len(inputs) == 1 else inputs
            outputs = keras.tree.flatten(model(structured, training=self.training))
            total = tf.add_n(
                [
                    tf.reduce_sum(y * r.astype(self.precision))
                    for y, (_, r) in zip(outputs, self.upstream(), strict=True)
                ]
            )
        gradients = tape.gradient(total, [*sources, *trainable], unconnected_gradients="zero")
        named = {f"y{i}": y.numpy() for i, y in enumerate(outputs)}
        named |= {f"g{i}": tf.convert_to_tensor(g).numpy() for i, g in enumerate(gradients)}
        return named | {f"u{i}": weight.numpy() for i, weight in enumerate(model.non_trainable_weights)}

    def function(self) -> tf.types.experimental.ConcreteFunction:
        """What :meth:`expected` computes, as the exporter traces it."""
        specs = {f"x{i}": spec for i, spec in enumerate(input_specs(self.model, self.batch))}
        specs |= {f"w{i}": tf.TensorSpec(w.shape, w.dtype) for i, w in enumerate(self.weights)}
        specs |= {f"r{i}": tf.TensorSpec(r.shape, r.dtype) for i, r in self.upstream()}

        def gradients(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            paths = [weight.path for weight in self.model.weights]
            values = {path: tf.identity(tensors[f"w{i}"]) for i, path in enumerate(paths)}
            inputs = [tf.identity(tensors[f"x{i}"]) for i in range(len(self.inputs))]
            with override_gradients(tf.compat.v1.get_default_graph()):
                call = call_model(self.model, inputs, values, training=self.training)
                total = tf.add_n([tf.reduce_sum(y * tensors[f"r{i}"]) for i, y in enumerate(call.outputs)])
                sources = [x for x in inputs if x.dtype.is_floating]
                sources += [values[weight.path] for weight in self.model.trainable_weights]
                found = differentiate(total, sources)
            named = {f"y{i}": y for i, y in enumerate(call.outputs)} | {
                f"g{i}": g for i, g in enumerate(_or_zeros(found, sources))
            }
            rest = [weight.path for weight in self.model.non_trainable_weights]
            named |= {f"u{i}": call.updates.get(path, values[path]) for i, path in enumerate(rest)}
            return {name: tf.identity(tensor) for name, tensor in named.items()}

        named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
        return tf.function(gradients, autograph=False).get_concrete_function(**named)


def _or_zeros(gradients: list[tf.Tensor | None], sources: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.zeros_like(x) if g is None else g for g, x in zip(gradients, sources, strict=True)]


def assert_close(found: Tensors, expected: Tensors, what: str, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys(), what
    largest = max(float(np.abs(value).max(initial=0.0)) for value in expected.values())
    for name, value in expected.items():
        scale = max(float(np.abs(value).max(initial=0.0)), 0.1 * largest)
        error = float(np.abs(found[name] - value).max(initial=0.0)) / scale
        assert error <= tolerance, f"{what} {name}: relative error {error:.1e}, scale {scale:.1e}"


class GradientCheck:
    """Checks cases in TensorFlow, or converted on both runtimes."""

    def __init__(self, device_run, folder: Path) -> None:
        self._device_run = device_run
        self._folder = folder

    def on_host(self, case: Case) -> None:
        tensors = {name: tf.constant(value) for name, value in case.tensors().items()}
        outputs = {name: value.numpy() for name, value in case.function()(**tensors).items()}
        assert_close(outputs, case.expected(), case.name)

    def on_devices(self, cases: Sequence[Case]) -> None:
        functions = {f"case{index}": case.function() for index, case in enumerate(cases)}
        file = self._folder / "cases.tflite"
        content = convert(tf.Module(), functions)
        lint.check(read(content))
        file.write_bytes(content)
        calls = [(f"case{index}", case.tensors()) for index, case in enumerate(cases)]
        expected = [case.expected() for case in cases]
        for runtime in installed():
            (results,) = self._device_run(runtime, [(file, calls)])
            for case, outputs, wanted in zip(cases, results, expected, strict=True):
                assert_close(outputs, wanted, f"{runtime} {case.name}")


@pytest.fixture
def gradient_check(device_run, tmp_path: Path) -> GradientCheck:
    return GradientCheck(device_run, tmp_path)


@pytest.fixture
def case() -> type[Case]:
    return Case
