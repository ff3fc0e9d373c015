"""Models that are not Keras's own, a SavedModel or a float `.tflite`, behind Keras's interface.

Everything that measures a Keras model measures these too. They cannot be trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from ..errors import (
    CustomOperatorError,
    DynamicShapeError,
    ModelFileError,
    QuantizationError,
    SourceError,
    UnsupportedLayerError,
)
from ..hardware.graph import read_graphs
from ..hardware.inference import Inference


class TFLiteFile(keras.layers.Layer):  # type: ignore[misc]
    """A `.tflite` for inference with one output, run example by example on LiteRT.

    Attributes:
        file: The file.
        specs: Its inputs by name.
        operators: TFLite's names of its operators.
    """

    def __init__(self, path: Path, operators: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.file = path
        self.operators = operators
        self._inference = Inference(path, runtime="litert")
        self.specs = self._inference.spec.inputs
        (self._output,) = self._inference.spec.outputs.values()

    def call(self, *inputs: Any) -> Any:
        """The file's output, float32."""
        (output,) = tf.nest.flatten(
            tf.numpy_function(lambda *arrays: self._inference.predict(*arrays)[0], inputs, tf.float32)
        )
        return tf.ensure_shape(output, (None, *self._output.shape[1:]))

    def compute_output_spec(self, *inputs: Any) -> keras.KerasTensor:
        """The output's shape as the file says it."""
        return keras.KerasTensor((None, *self._output.shape[1:]), "float32")


def read_file(path: Path) -> keras.Model:
    """A float `.tflite` as a Keras model.

    Raises:
        ModelFileError: The file is damaged, is quantized already, or has not one output.
        CustomOperatorError: It has an operator that is not TFLite's own.
        DynamicShapeError: A size other than the batch is open.
    """
    graphs = read_graphs(path)
    place = graphs.signatures.get("infer", min(graphs.signatures.values(), default=0))
    graph = graphs.graphs[place]
    quantized = [tensor for tensor in graph.tensors if tensor.scales and tensor.dtype != "float32"]
    if quantized:
        raise ModelFileError(
            f"Expected a float .tflite to convert, received {path.name!r}, whose tensor "
            f"{quantized[0].name!r} is {quantized[0].dtype}.",
            remedy="Give the float file that it was made from; hedgerow check and bench take this one.",
        )
    custom = [one.name.removeprefix("CUSTOM:") for one in graph.operators if one.name.startswith("CUSTOM:")]
    if custom:
        raise CustomOperatorError(
            f"Expected TFLite's own operators in {path.name!r}, found the custom one {custom[0]!r}."
        )
    open_sizes = [
        list(graph.tensors[place].shape) for place in graph.inputs if -1 in graph.tensors[place].shape[1:]
    ]
    if open_sizes:
        raise DynamicShapeError(
            f"Expected fixed sizes but for the batch in {path.name!r}, its input is {open_sizes[0]}.",
            remedy="Convert the model again with every size fixed.",
        )
    if len(graph.outputs) != 1:
        raise ModelFileError(f"Expected a .tflite with one output, {path.name!r} has {len(graph.outputs)}.")
    layer = TFLiteFile(path, tuple(one.name for one in graph.operators), name="file")
    inputs = [keras.Input(spec.shape[1:], dtype=spec.dtype.name) for spec in layer.specs.values()]
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, layer(*inputs), name=path.stem)


def read_saved_model(folder: Path) -> keras.Model:
    """A SavedModel with one signature of one input and one output as a Keras model.

    Raises:
        SourceError: It cannot be loaded.
        QuantizationError: Its signature takes or gives something else.
        UnsupportedLayerError: It has the loop of a recurrent layer, which the converter refuses.
    """
    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise SourceError(
            f"Cannot load the SavedModel {str(folder)!r}: {' '.join(str(error).split())[:300].rstrip('.')}.",
            remedy="Check that the folder is whole: saved_model.pb and variables/.",
        ) from error
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    specs = list(signatures[name].structured_input_signature[1].values()) if name else []
    outputs = signatures[name].structured_outputs if name else {}
    if len(specs) != 1 or len(outputs) != 1:
        raise QuantizationError(
            f"Expected a signature with one input and one output in {str(folder)!r}, found "
            f"{len(specs)} and {len(outputs)} in {name!r}.",
            remedy="Save the model with tf.saved_model.save(..., signatures=...) or Keras's export().",
        )
    functions = signatures[name].graph.as_graph_def().library.function
    if any(node.op == "TensorListReserve" for function in functions for node in function.node_def):
        raise UnsupportedLayerError(
            f"Expected a SavedModel without loops, {str(folder)!r} has one, as a recurrent layer leaves it.",
            remedy="Give the .keras file: its LSTMs become the fused operator.",
        )
    layer = keras.layers.TFSMLayer(str(folder), call_endpoint=name, name="saved_model")
    given = keras.Input(tuple(specs[0].shape[1:]), dtype=specs[0].dtype.name, name=specs[0].name)
    answers = layer(given)
    return keras.Model(given, next(iter(answers.values())), name=folder.name)


def file_of(model: keras.Model) -> TFLiteFile | None:
    """The `.tflite` that a model stands for; None for every other model."""
    return next((layer for layer in model.layers if isinstance(layer, TFLiteFile)), None)


def is_foreign(model: keras.Model) -> bool:
    """Whether a model is not Keras's own, so that its layers cannot be looked at or trained."""
    return file_of(model) is not None or bool(saved_models_of(model))


def saved_models_of(model: keras.Model) -> list[Any]:
    """The SavedModels in a model, whose variables Keras does not know."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.TFSMLayer)]
