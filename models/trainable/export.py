"""A Keras model as one ``.tflite`` file that trains."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from ...errors import ModelError, UncoveredOperatorError, UsageError
from .. import losses, optimizers
from . import file
from .selection import select
from .step import TrainableModule

LossSpec: TypeAlias = str | losses.Loss | keras.losses.Loss


@dataclass(frozen=True, slots=True)
class TrainableInfo:
    """What an export wrote.

    Attributes:
        path: The file.
        size_bytes: Its size.
        batch_size: Rows of every batch.
        signatures: Names of the signatures.
        weights: Shape of every weight by Keras path.
        trained: For each training signature, the paths of the weights it changes.
    """

    path: Path
    size_bytes: int
    batch_size: int
    signatures: tuple[str, ...]
    weights: dict[str, tuple[int, ...]]
    trained: dict[str, tuple[str, ...]]


def export_trainable(
    model: keras.Model,
    path: str | Path,
    *,
    batch_size: int = 16,
    loss: LossSpec | Sequence[LossSpec] = "sparse_categorical_crossentropy",
    optimizer: str | optimizers.Optimizer | keras.optimizers.Optimizer = "sgd",
    trainable: str | Sequence[str] = "all",
    variants: Mapping[str, str | Sequence[str]] | None = None,
    **optimizer_hyperparameters: Any,
) -> TrainableInfo:
    """Writes a model as a file whose every operator, forward and backward, is a TFLite built-in one.

    Args:
        model: A built Keras model of float32 weights; it is left as it was.
        path: Where to write.
        batch_size: Rows of a batch; fixed in the file. A shorter batch is masked by its weights.
        loss: A loss, or one for every output.
        optimizer: The optimizer.
        trainable: What ``train`` changes: ``all``, ``head``, ``bias``, or patterns of weight paths.
        variants: Further training signatures by name, each with what it changes: ``{"train_head": "head"}``.
        **optimizer_hyperparameters: Passed to the optimizer, such as ``momentum=0.9``.

    Raises:
        UncoveredOperatorError: An operator of the model has no backward pass in built-in operators.
        DynamicShapeError: A size is not known.
        SelectionError: A selection matches no weight.
        ModelError: Two weights share a path, or a weight is not float32.
    """
    if batch_size < 1:
        raise UsageError(f"Expected a batch size of at least 1, received {batch_size}.")
    _check_weights(model)
    chosen = {"train": select(model, trainable)}
    chosen |= {name: select(model, selection) for name, selection in (variants or {}).items()}
    specs = [loss] if isinstance(loss, str) or not isinstance(loss, Sequence) else list(loss)
    module = TrainableModule(
        model,
        [losses.get(spec) for spec in specs],
        optimizers.get(optimizer, **optimizer_hyperparameters),
        batch_size=batch_size,
    )
    content = file.read(convert(module, _signatures(module, chosen)))
    file.rename_weights(content, {f"w{index}": path for index, path in enumerate(module.weights)})
    file.share_buffers(content)
    trained = {name: tuple(weight.path for weight in weights) for name, weights in chosen.items()}
    description = {
        "batch_size": batch_size,
        "labels": module.label_counts(),
        "learning_rate": optimizers.get(optimizer, **optimizer_hyperparameters).default_learning_rate,
        "trained": trained,
        "weights": list(module.weights),
    }
    file.describe(content, json.dumps(description).encode())
    path = Path(path)
    path.write_bytes(file.write(content))
    return TrainableInfo(
        path=path,
        size_bytes=path.stat().st_size,
        batch_size=batch_size,
        signatures=tuple(sorted(signature.signatureKey.decode() for signature in content.signatureDefs)),
        weights={name: tuple(variable.shape) for name, variable in module.weights.items()},
        trained=trained,
    )


def _check_weights(model: keras.Model) -> None:
    if not model.built:
        raise ModelError(
            f"Expected a built model, {model.name!r} has no weights yet.",
            remedy="Call it on an example first.",
        )
    paths = [weight.path for weight in model.weights]
    for weight in model.weights:
        if paths.count(weight.path) > 1:
            raise ModelError(
                f"Expected one weight for each path, {weight.path!r} stands for {paths.count(weight.path)}.",
                remedy="Give the layers names of their own.",
            )
        if weight.dtype != "float32":
            raise ModelError(f"Expected float32 weights, {weight.path!r} is {weight.dtype}.")


def _signatures(module: TrainableModule, chosen: Mapping[str, Sequence[keras.Variable]]) -> dict[str, Any]:
    return {
        "infer": module.infer(),
        "evaluate": module.evaluate(),
        "get_weights": module.get_weights(),
        "set_weights": module.set_weights(),
        "reset": module.reset(),
    } | {name: module.train(weights) for name, weights in chosen.items()}


def convert(module: tf.Module, signatures: Mapping[str, Any]) -> bytes:
    """Converts traced functions into one file with a signature each.

    Args:
        module: What holds the variables that the functions use.
        signatures: A concrete function, of tensors with names, by signature name.

    Raises:
        UncoveredOperatorError: TFLite has no built-in operator for one of them.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet_importer():
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=dict(signatures), options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        converter.experimental_enable_resource_variables = True
        try:
            content: bytes = converter.convert()
        except tf.errors.OpError as error:
            raise _uncovered(str(error), signatures) from error
        except Exception as error:
            if type(error).__name__ != "ConverterError":
                raise
            raise _uncovered(str(error), signatures) from error
    return content


@contextmanager
def _quiet_importer() -> Iterator[None]:
    """Silences a warning about gradients of the saved functions: they are in the graph already."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _uncovered(message: str, signatures: Mapping[str, Any]) -> ModelError:
    """Names the operators and layers that the converter refused."""
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op", message)))
    places = sorted(
        {
            op.name
            for function in signatures.values()
            for op in function.graph.get_operations()
            if op.type in operators
        }
    )
    if not operators:
        return ModelError(f"The converter refused the model: {message[:500]}")
    return UncoveredOperatorError(
        f"Expected operators that TFLite has built in, received {', '.join(operators)} "
        f"in {', '.join(places[:5])}.",
        operators=operators,
    )
