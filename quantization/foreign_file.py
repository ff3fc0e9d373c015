"""A float `.tflite` that somebody else made, in other types: what the converter's process does with it.

int8 is made by the same calibrator and quantizer as for Keras models, because its files run on
tflite-runtime 2.14; what that quantizer cannot make out of a file is made by ai-edge-quantizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Examples = dict[str, Array]


def calibrate(data: bytes, path: str) -> bytes:
    """The same file, which notes the range of each tensor over the examples in the `.npz` at `path`."""
    from tensorflow.lite.python.optimize import calibrator

    key, examples = _signature(data), _read(path)

    def batches() -> Iterator[Any]:
        for inputs in _singly(examples):
            yield (key, inputs) if key else list(inputs.values())

    calibrated: bytes = calibrator.Calibrator(calibrator.add_intermediate_tensors(data)).calibrate(batches)
    return calibrated


def convert(data: bytes, weights: str, activations: str, path: str) -> bytes:
    """The file with its weights and activations in other types.

    Args:
        data: A float file.
        weights: `float16`, `int8` or `int4`.
        activations: `float32` or `int16`.
        path: An `.npz` with calibration examples, for `int16`.
    """
    if weights == activations == "float32":
        return data
    from ai_edge_quantizer import quantizer

    quantizing = quantizer.Quantizer(bytearray(data), _recipe(weights, activations))
    ranges = None
    if activations == "int16":
        ranges = quantizing.calibrate({_signature(data): list(_singly(_read(path)))[:1]})
        _widen(ranges, calibrate(data, path))
    return bytes(quantizing.quantize(ranges, enable_progress_report=False).quantized_model)


def _widen(ranges: dict[str, dict[str, Array]], calibrated: bytes) -> None:
    """Puts the smallest and the largest value in the place of ai-edge-quantizer's moving averages.

    Those clip what int16 has room for.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    graph = schema.Model.GetRootAs(calibrated, 0).Subgraphs(0)
    for place in range(graph.TensorsLength()):
        tensor = graph.Tensors(place)
        found, quantization = ranges.get(tensor.Name().decode()), tensor.Quantization()
        if found and quantization is not None and quantization.MinLength() == quantization.MaxLength() == 1:
            found["min"] = np.full_like(found["min"], quantization.Min(0))
            found["max"] = np.full_like(found["max"], quantization.Max(0))


def _recipe(weights: str, activations: str) -> Any:
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe, recipe_manager

    if activations == "int16":
        return recipe.static_wi8_ai16()
    if weights == "int8":
        # Its dynamic-range files load on tflite-runtime 2.14 and give wrong numbers: weights only.
        return recipe.weight_only_wi8_afp32()
    if weights == "int4":
        return recipe.weight_only_wi4_afp32()
    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def _signature(data: bytes) -> str | None:
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    return model.SignatureDefs(0).SignatureKey().decode() if model.SignatureDefsLength() else None


def _read(path: str) -> Examples:
    with np.load(path) as arrays:
        return dict(arrays)


def _singly(examples: Examples) -> Iterator[Examples]:
    for number in range(len(next(iter(examples.values())))):
        yield {name: array[number : number + 1] for name, array in examples.items()}
