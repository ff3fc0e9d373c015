"""Optimizers as built-in operators: both runtimes follow TensorFlow, and the file stays small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hedgerow.hardware.runtime import installed
from hedgerow.models import optimizers

SHAPES = ((6, 5), (5,), (3, 2, 2, 4), (2, 2, 2, 3, 2))
STEPS = 50

FAULTS = {
    3: ("g3", [np.inf]),
    7: ("loss", [np.nan]),
    11: ("g0", [np.inf, -np.inf]),
    13: ("g2", [np.nan]),
    17: ("loss", [-np.inf]),
    19: ("learning_rate", [np.nan]),
    29: ("g1", [-np.inf] * 5),
}
"""Steps that must be undone: the input that is not finite, and its first values."""

OPTIMIZERS = {
    "sgd": optimizers.get("sgd"),
    "momentum": optimizers.get("momentum", global_clipnorm=0.7),
    "nesterov": optimizers.get("nesterov", weight_decay=0.01, proximal=True),
    "adam": optimizers.get("adam", global_clipnorm=0.7, proximal=True),
    "adamw": optimizers.get("adamw"),
}


def arrays(seed: int, shapes=SHAPES, scale: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape, scale=scale).astype(np.float32) for shape in shapes]


class Steps(tf.Module):
    """`train`, `get` and `reset` of one optimizer whose gradients are inputs, plus the weights."""

    def __init__(self, optimizer: optimizers.Optimizer, shapes=SHAPES) -> None:
        super().__init__()
        self.weights = [tf.Variable(weight) for weight in arrays(0, shapes)]
        slots = optimizer.slots(self.weights)
        self.slots = slots.variables
        gradients = {f"g{i}": tf.TensorSpec(shape, tf.float32, f"g{i}") for i, shape in enumerate(shapes)}
        loss = tf.TensorSpec([], tf.float32, name="loss")

        @tf.function(input_signature=[gradients, loss, optimizer.inputs()])
        def train(gradients, loss, inputs):
            pulled = [g + w for g, w in zip(gradients.values(), self.weights, strict=True)]
            return optimizer.apply(pulled, self.weights, slots, inputs, loss=loss)

        @tf.function(input_signature=[])
        def get():
            return {f"w{i}": weight.read_value() for i, weight in enumerate(self.weights)}

        @tf.function(input_signature=[])
        def reset():
            optimizer.reset(slots)
            return {"count": tf.constant(len(self.weights))}

        self.traced = {"train": train, "get": get, "reset": reset}

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same call in TensorFlow."""
        arguments = {name: tf.constant(value) for name, value in inputs.items()}
        if signature == "train":
            gradients = {name: arguments.pop(name) for name in sorted(arguments) if name.startswith("g")}
            outputs = self.traced["train"](gradients, arguments.pop("loss"), arguments)
        else:
            outputs = self.traced[signature]()
        return {name: value.numpy() for name, value in outputs.items()}


def convert(module: Steps, file: Path) -> Path:
    concrete = {name: function.get_concrete_function() for name, function in module.traced.items()}
    folder = str(file.with_suffix(""))
    tf.saved_model.save(module, folder, signatures=concrete)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.experimental_enable_resource_variables = True
    file.write_bytes(converter.convert())
    return file


def calls_of(optimizer: optimizers.Optimizer) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Steps, with the weights before and after each that must be undone; a reset, and more steps."""
    calls: list[tuple[str, dict[str, np.ndarray]]] = []
    for step in range(STEPS):
        inputs = {f"g{i}": gradient for i, gradient in enumerate(arrays(step + 1, scale=0.3))}
        values = {"learning_rate": 0.05, "proximal_mu": 0.1}
        inputs |= {name: np.float32(values[name]) for name in optimizer.inputs()} | {"loss": np.float32(1)}
        if step not in FAULTS:
            calls.append(("train", inputs))
        else:
            name, values = FAULTS[step]
            inputs[name] = np.array(inputs[name])
            inputs[name].flat[: len(values)] = values
            calls += [("get", {}), ("train", inputs), ("get", {})]
        if step == 25:
            calls.append(("reset", {}))
    return [*calls, ("get", {})]


@pytest.mark.slow
def test_both_runtimes_follow_tensorflow_for_fifty_steps(tmp_path: Path, device_run) -> None:
    modules = {name: Steps(optimizer) for name, optimizer in OPTIMIZERS.items()}
    cases = [
        (convert(modules[name], tmp_path / f"{name}.tflite"), calls_of(optimizer))
        for name, optimizer in OPTIMIZERS.items()
    ]
    expected = {
        name: [modules[name].run(*call) for call in calls_of(OPTIMIZERS[name])] for name in OPTIMIZERS
    }
    for runtime in installed():
        for (name, references), outputs in zip(expected.items(), device_run(runtime, cases), strict=True):
            for reference, output in zip(references, outputs, strict=True):
                for key, value in reference.items():
                    np.testing.assert_allclose(
                        output[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{runtime} {name} {key}"
                    )
            finite = [float(output["finite"]) for output in outputs if "finite" in output]
            assert [step for step, flag in enumerate(finite) if flag == 0.0] == list(FAULTS)
            weights = [output for output in outputs if "w0" in output]
            for before, after in zip(weights[:-1:2], weights[1::2], strict=True):
                assert all(np.array_equal(before[key], after[key]) for key in before)


def test_slots_and_anchors_take_no_room_in_the_file(tmp_path: Path) -> None:
    shapes = ((300, 100), (100, 50), (3, 3, 16, 32))
    weights = sum(4 * int(np.prod(shape)) for shape in shapes)
    file = convert(Steps(optimizers.get("adam", proximal=True), shapes), tmp_path / "adam.tflite")
    assert file.stat().st_size < 1.05 * weights + 30_000
