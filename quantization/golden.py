"""Golden vectors: a few examples and what each file answers to them, for a device to prove itself with.

The `.npz` holds the examples as `x` `[n, ...]`, and under each file's name its outputs `[n, ...]` as real
numbers. They come from the reference kernels; a device's fast kernels may differ from them by a few steps of
the quantization.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..hardware.inference import Inference

FILE = "golden.npz"
EXAMPLES = 8


def write_golden(path: Path, files: Mapping[str, Path], x: NDArray[np.generic]) -> None:
    """Runs the first examples through every file for inference and writes what comes out.

    Args:
        path: The `.npz` to write; the same files and examples give the same bytes.
        files: Files for inference with one input.
        x: Examples `[N, ...]` as the Keras model takes them, of which the first eight are kept.
    """
    examples = np.asarray(x)[:EXAMPLES]
    arrays = {"x": examples}
    for file in files.values():
        with Inference(file, runtime="litert", reference_kernels=True) as inference:
            arrays[file.name] = inference.predict(examples)[0]
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
