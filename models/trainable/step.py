"""The functions of a trainable file: infer, train, evaluate, get and set weights and slots, reset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf

from ...errors import ModelError
from .. import metrics
from ..gradients import differentiate, override_gradients
from ..losses import Loss, weighted
from ..optimizers import Optimizer
from .call import Call, call_model, draws, input_specs
from .selection import frozen_normalizations

Function = Callable[..., dict[str, tf.Tensor]]
_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid"}


class TrainableModule(tf.Module):  # type: ignore[misc]
    """A Keras model, a loss per output and an optimizer as functions of fixed shapes.

    The weights are copies of the model's, so that tracing and conversion leave the model alone.

    Attributes:
        weights: The variables by Keras path, in Keras's order.
        inputs: Specs of the inputs by signature name.
        outputs: Specs of the outputs by signature name.
        targets: Specs of the targets by signature name.
    """

    def __init__(
        self, model: keras.Model, losses: Sequence[Loss], optimizer: Optimizer, *, batch_size: int
    ) -> None:
        super().__init__(name="trainable")
        self._model, self._optimizer, self._batch_size = model, optimizer, batch_size
        self.weights = {
            weight.path: tf.Variable(weight.numpy(), name=f"w{index}", dtype=weight.dtype)
            for index, weight in enumerate(model.weights)
        }
        trainable = [self.weights[weight.path] for weight in model.trainable_weights]
        self._slots = optimizer.slots(trainable)
        self._slot_variables = self._slots.variables
        self.inputs = _numbered("x", input_specs(model, batch_size))
        self.outputs = self._output_specs()
        if len(losses) != len(self.outputs):
            raise ModelError(
                f"Expected one loss for each of the {len(self.outputs)} outputs of {model.name!r}, "
                f"received {len(losses)}.",
                remedy="Pass a list with a loss for every output.",
            )
        self._losses = tuple(losses)
        specs = [
            loss.target_spec(spec.shape.as_list())
            for loss, spec in zip(losses, self.outputs.values(), strict=True)
        ]
        self.targets = _numbered("y", specs)

    def label_counts(self) -> dict[str, int | None]:
        """For each target, how many integer labels there are, or None where it is not a label."""
        pairs = zip(self.targets, self._losses, self.outputs.values(), strict=True)
        return {name: loss.label_count(spec.shape.as_list()) for name, loss, spec in pairs}

    def infer(self) -> Any:
        """``x -> output``."""

        def infer(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            call = call_model(
                self._model, [inputs[name] for name in self.inputs], self._read(), training=False
            )
            return _identities(dict(zip(self.outputs, call.outputs, strict=True)))

        return _traced(infer, self.inputs)

    def train(self, chosen: Sequence[keras.Variable]) -> Any:
        """``x, y, weight, ... -> loss, ...`` for one choice of weights."""

        def train(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            values = self._read()
            with ExitStack() as stack:
                graph = tf.compat.v1.get_default_graph()
                stack.enter_context(override_gradients(graph))
                call = self._call_for_training(chosen, tensors, values)
                loss, results = self._loss(call, tensors)
                sources = [values[weight.path] for weight in chosen]
                gradients = differentiate(loss, sources)
            updates = [(self.weights[path], value) for path, value in call.updates.items()]
            done = self._optimizer.apply(
                gradients,
                [self.weights[weight.path] for weight in chosen],
                self._slots,
                {name: tensors[name] for name in self._optimizer.inputs()},
                loss=loss,
                updates=updates,
            )
            return _identities({"loss": loss, **results, **done})

        return _traced(train, {**self._batch_specs(), **self._optimizer.inputs(), **self._seed_spec()})

    def evaluate(self) -> Any:
        """``x, y, weight -> sums`` that add up over batches."""

        def evaluate(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = [tensors[name] for name in self.inputs]
            call = call_model(self._model, inputs, self._read(), training=False)
            _, results = self._loss(call, tensors)
            return _identities(results)

        return _traced(evaluate, self._batch_specs())

    def get_weights(self) -> Any:
        """``-> w0, w1, ...``: every weight."""

        def get_weights() -> dict[str, tf.Tensor]:
            return {f"w{i}": tf.identity(v.read_value()) for i, v in enumerate(self.weights.values())}

        return _traced(get_weights, {})

    def set_weights(self) -> Any:
        """``w0, w1, ... -> count``: replaces every weight, and the anchor of the proximal term."""

        def set_weights(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            for index, variable in enumerate(self.weights.values()):
                variable.assign(tensors[f"w{index}"])
            trainable = [self.weights[weight.path] for weight in self._model.trainable_weights]
            self._optimizer.set_anchor(self._slots, trainable)
            return {"count": tf.constant(len(self.weights), tf.int32)}

        specs = {f"w{i}": tf.TensorSpec(v.shape, v.dtype) for i, v in enumerate(self.weights.values())}
        return _traced(set_weights, specs)

    def reset(self) -> Any:
        """``-> count``: the optimizer starts anew."""

        def reset() -> dict[str, tf.Tensor]:
            self._optimizer.reset(self._slots)
            return {"count": tf.constant(len(self._slot_variables), tf.int32)}

        return _traced(reset, {})

    def get_slots(self) -> Any:
        """``-> s0, s1, ...``: what the optimizer remembers, to go on with after an interruption."""

        def get_slots() -> dict[str, tf.Tensor]:
            return {f"s{i}": tf.identity(v.read_value()) for i, v in enumerate(self._slot_variables)}

        return _traced(get_slots, {})

    def set_slots(self) -> Any:
        """``s0, s1, ... -> count``: replaces it, the anchor of the proximal term included."""

        def set_slots(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            for index, variable in enumerate(self._slot_variables):
                variable.assign(tensors[f"s{index}"])
            return {"count": tf.constant(len(self._slot_variables), tf.int32)}

        specs = {f"s{i}": tf.TensorSpec(v.shape, v.dtype) for i, v in enumerate(self._slot_variables)}
        return _traced(set_slots, specs)

    def _call_for_training(
        self, chosen: Sequence[keras.Variable], tensors: Mapping[str, tf.Tensor], values: dict[str, tf.Tensor]
    ) -> Call:
        frozen = [layer for layer in frozen_normalizations(self._model, chosen) if layer.trainable]
        for layer in frozen:
            layer.trainable = False
        try:
            inputs = [tensors[name] for name in self.inputs]
            return call_model(self._model, inputs, values, training=True, seed=tensors.get("seed"))
        finally:
            for layer in frozen:
                layer.trainable = True

    def _loss(self, call: Call, tensors: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss to minimize, and sums that add up over batches: of losses, of metrics, of weights."""
        weight = tensors["weight"]
        totals = metrics.totals(weight)
        means, sums = list(call.penalties), [penalty * totals["example_count"] for penalty in call.penalties]
        results: dict[str, tf.Tensor] = {}
        for output, loss, target in zip(call.outputs, self._losses, self.targets, strict=True):
            logits = _before_activation(output, loss)
            from_logits = loss.from_logits or logits is not output
            value = weighted(loss, tensors[target], logits, weight, from_logits=from_logits)
            means.append(value.mean)
            sums.append(value.sum)
            number = target.removeprefix("y")
            for metric in metrics.for_loss(loss):
                named = metric.sums(tensors[target], logits, weight, from_logits=from_logits)
                results |= {f"output{number}_{name}" if number else name: v for name, v in named.items()}
        return tf.add_n(means), {"loss_sum": tf.add_n(sums), **results, **totals}

    def _read(self) -> dict[str, tf.Tensor]:
        return {path: tf.identity(variable.read_value()) for path, variable in self.weights.items()}

    def _batch_specs(self) -> dict[str, tf.TensorSpec]:
        weight = tf.TensorSpec([self._batch_size], tf.float32)
        return {**self.inputs, **self.targets, "weight": weight}

    def _seed_spec(self) -> dict[str, tf.TensorSpec]:
        return {"seed": tf.TensorSpec([], tf.int32)} if draws(self._model) else {}

    def _output_specs(self) -> dict[str, tf.TensorSpec]:
        outputs = getattr(self._model, "outputs", None) or self._traced_outputs()
        shapes = [[self._batch_size, *output.shape[1:]] for output in outputs]
        return _numbered("output", [tf.TensorSpec(shape, tf.float32) for shape in shapes])

    def _traced_outputs(self) -> list[Any]:
        def outputs(*tensors: tf.Tensor) -> list[tf.Tensor]:
            return call_model(self._model, tensors, self._read(), training=False).outputs

        traced = tf.function(outputs, input_signature=list(self.inputs.values()), autograph=False)
        flat: list[Any] = keras.tree.flatten(traced.get_concrete_function().structured_outputs)
        return flat


def _traced(function: Function, specs: Mapping[str, tf.TensorSpec]) -> Any:
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    return tf.function(function, autograph=False).get_concrete_function(**named)


def _before_activation(output: tf.Tensor, loss: Loss) -> tf.Tensor:
    """The logits, where the model ends in the activation that the loss prefers to read before."""
    if loss.from_logits or loss.activation is None:
        return output
    tensor = output
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    ends = tensor.op.type == _ACTIVATIONS.get(loss.activation) and tensor.op.inputs[0].shape == output.shape
    return tensor.op.inputs[0] if ends else output


def _numbered(prefix: str, specs: Sequence[tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    names = [prefix] if len(specs) == 1 else [f"{prefix}{index}" for index in range(len(specs))]
    return {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in zip(names, specs, strict=True)
    }


def _identities(tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.identity(tensor) for name, tensor in tensors.items()}
