"""A Keras model as one ``.tflite`` file that trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras

from ...errors import ModelError, UsageError
from .. import losses, optimizers
from . import file, lint
from .conversion import convert
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
        UnsafeGraphError: The result holds a trap for an old runtime.
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
    content = file.read(
        convert(module, _signatures(module, chosen), layers={layer.name for layer in model._flatten_layers()})
    )
    lint.check(content)
    file.rename_weights(content, {f"w{index}": path for index, path in enumerate(module.weights)})
    file.share_buffers(content)
    file.drop_names(content)
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
        "get_slots": module.get_slots(),
        "set_slots": module.set_slots(),
    } | {name: module.train(weights) for name, weights in chosen.items()}
