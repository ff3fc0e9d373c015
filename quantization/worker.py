"""The converter's process: reads jobs as JSON lines from its input, does them, answers on its output.

The TFLite converter ends its process on some models. It lives here, so that its end is an answer for its
parent. A parent that is killed cannot remove the folder of its files: then that is done here. That folder and
the parent's process id are the arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from . import foreign_file, ranges

_OPERATORS = {
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


def main() -> None:
    """Answers jobs until the input ends, which it does when the parent does."""
    # TensorFlow prints to the standard output: the answers go to the real one, everything else to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tf.get_logger().setLevel("ERROR")
    try:
        for line in sys.stdin:
            job = json.loads(line)
            try:
                Path(job["output"]).write_bytes(_JOBS[job["job"]](job))
                error = None
            except Exception as raised:  # noqa: BLE001 - whatever the converter raises is the answer
                error = f"{type(raised).__name__}: {raised}"
            answers.write(json.dumps({"error": error}) + "\n")
            answers.flush()
    finally:
        folder, parent = sys.argv[1:]
        if os.getppid() != int(parent):
            shutil.rmtree(folder, ignore_errors=True)


def _convert(job: dict[str, Any]) -> bytes:
    """A SavedModel, or a float file, in the types of a recipe."""
    if "file" in job:
        return foreign_file.convert(
            Path(job["file"]).read_bytes(), job["weights"], job["activations"], job["calibration"]
        )
    converter = _converter(job)
    data: bytes = converter.convert()
    if job["weights"] == "int4":
        return foreign_file.convert(data, "int4", "float32", job["calibration"])
    return data


def _calibrate(job: dict[str, Any]) -> bytes:
    """A float file that notes the range of each tensor."""
    if "file" in job:
        return foreign_file.calibrate(Path(job["file"]).read_bytes(), job["calibration"])
    converter = _converter(job)
    converter._experimental_calibrate_only = True
    data: bytes = converter.convert()
    return data


def _clip(job: dict[str, Any]) -> bytes:
    """A calibrated file whose ranges round the calibration examples with the least error."""
    with np.load(job["calibration"]) as arrays:
        return ranges.clip(Path(job["calibrated"]).read_bytes(), dict(arrays))


def _quantize(job: dict[str, Any]) -> bytes:
    """A calibrated file in int8, but for the operators that are to stay in float."""
    from tensorflow.lite.python import convert

    data: bytes = convert.mlir_quantize(
        Path(job["calibrated"]).read_bytes(),
        input_data_type=tf.dtypes.as_dtype(job["input_type"]),
        output_data_type=tf.dtypes.as_dtype(job["output_type"]),
        denylisted_nodes=set(job["float_operators"]) or None,
    )
    return data


_JOBS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "convert": _convert,
    "calibrate": _calibrate,
    "clip": _clip,
    "quantize": _quantize,
}


def _converter(job: dict[str, Any]) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(
        job["saved_model"], signature_keys=[job["signature"]]
    )
    weights, activations = job["weights"], job["activations"]
    if weights in ("float16", "int8"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if activations == "float32":
        # FULLY_CONNECTED per channel is version 12, which tflite-runtime 2.14 does not load.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    else:
        converter.representative_dataset = _examples(job["calibration"])
        converter.target_spec.supported_ops = [_OPERATORS[activations]]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(activations)
    return converter


def _examples(path: str) -> Callable[[], Iterator[dict[str, Any]]]:
    with np.load(path) as stored:
        arrays = dict(stored)

    def examples() -> Iterator[dict[str, Any]]:
        for i in range(len(next(iter(arrays.values())))):
            yield {name: array[i : i + 1] for name, array in arrays.items()}

    return examples


if __name__ == "__main__":
    main()
