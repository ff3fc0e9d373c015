"""Does a file give on a runtime what it gave on the reference kernels, in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from ..errors import HedgerowError, InterpreterError
from .inference import Inference
from .runtime import RuntimeName

_TIMEOUT_SECONDS = 600
# XNNPACK's integer kernels differ from the reference ones by up to 9 steps on a keyword model.
_STEPS = 9.0
_RELATIVE = 1e-3


class Verification(msgspec.Struct, frozen=True):
    """How far a runtime's answers are from the golden ones.

    Attributes:
        runtime: `tflite` or `litert`.
        difference: The largest distance, in real numbers.
        steps: The same in steps of the output's quantization; None if it is not quantized.
        passed: Within 9 steps, or a thousandth of the range for outputs that are not quantized.
    """

    runtime: str
    difference: float
    steps: float | None
    passed: bool


def verify(path: str | Path, golden: str | Path, *, runtime: str) -> Verification:
    """Runs the golden examples through a file on a runtime.

    Args:
        path: The file.
        golden: An `.npz` with the examples `x` and, under the file's name, the outputs to expect.
        runtime: `tflite` or `litert`.

    Raises:
        InterpreterError: The runtime is missing, or cannot run this file, or ended on it.
    """
    command = [sys.executable, "-m", __name__, str(path), str(golden), runtime]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InterpreterError(f"{runtime} did not finish {path} in {_TIMEOUT_SECONDS} s.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InterpreterError(f"{runtime} cannot run {Path(path).name!r}: {lines[-1][:500].rstrip('.')}.")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Verification)


def compare(path: Path, golden: Path, runtime: RuntimeName) -> Verification:
    """Compares in this process; see :func:`verify`."""
    with np.load(golden) as arrays:
        x, expected = arrays["x"], arrays[path.name]
    with Inference(path, runtime=runtime) as inference:
        scale = next(iter(inference.spec.outputs.values())).scale
        difference = float(np.abs(inference.predict(x)[0] - expected).max())
    steps = difference / scale if scale else None
    allowed = _STEPS * scale if scale else _RELATIVE * max(float(np.ptp(expected)), 1e-6)
    return Verification(runtime, difference, steps, difference <= allowed * (1 + 1e-6))


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("runtime")
    try:
        result = compare(**vars(parser.parse_args()))
    except HedgerowError as error:
        sys.exit(str(error.args[0]))
    sys.stdout.write(json.dumps(msgspec.to_builtins(result)) + "\n")


if __name__ == "__main__":
    _main()
