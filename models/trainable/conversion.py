"""Traced functions to one ``.tflite`` file, and what the converter refuses in the words of the model."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ...errors import ModelError, UncoveredOperatorError


def convert(module: tf.Module, signatures: Mapping[str, Any], *, layers: Collection[str] = ()) -> bytes:
    """Converts traced functions into one file with a signature each.

    Args:
        module: What holds the variables that the functions use.
        signatures: A concrete function, of tensors with names, by signature name.
        layers: Names of the model's layers, for the message of an error.

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
            raise _uncovered(str(error), signatures, layers) from error
        except Exception as error:
            if type(error).__name__ != "ConverterError":
                raise
            raise _uncovered(str(error), signatures, layers) from error
    return content


@contextmanager
def _quiet_importer() -> Iterator[None]:
    """Silences a warning about gradients of the saved functions: they are in the graph already."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_unrelated)
    try:
        yield
    finally:
        logger.removeFilter(_is_unrelated)


def _is_unrelated(record: logging.LogRecord) -> bool:
    return "unsaved custom gradients" not in record.getMessage()


def _uncovered(message: str, signatures: Mapping[str, Any], layers: Collection[str]) -> ModelError:
    """Names the operators and layers that the converter refused."""
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op", message)))
    if not operators:
        return ModelError(f"The converter refused the model: {message[:500]}")
    places = sorted(
        {
            layer_of(op.name, layers)
            for function in signatures.values()
            for op in function.graph.get_operations()
            if op.type in operators
        }
    )
    return UncoveredOperatorError(
        f"Expected operators that TFLite has built in, the layers {', '.join(map(repr, places))} need "
        f"{', '.join(operators)}.",
        operators=operators,
        layers=places,
    )


def layer_of(operation: str, layers: Collection[str]) -> str:
    """The layer that an operation's scope names, or the scope itself.

    TensorFlow appends ``_1`` and so on to scopes that are entered again.
    """
    for part in reversed(operation.split("/")[:-1]):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in layers:
                return name
    return operation
