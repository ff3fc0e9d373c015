"""A release proves on this very device that it computes what it should, in a process of its own.

A golden file is an `.npz` with examples `x` of shape `[n, ...]` and, under the name of each model file, the
float outputs `[n, ...]` that the file gave where it was made.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from ...errors import HedgerowError, RefusedReleaseError
from ...protocol.manifest import Kind

GOLDEN_KIND: Kind = "golden"
SECONDS = 120.0
# XNNPACK's integer kernels differ from the reference ones by up to 9 of 256 steps on a keyword model.
TOLERANCE = 0.05


def run_self_test(model: Path, golden: Path) -> None:
    """Compares a model file's outputs with the golden ones.

    Raises:
        RefusedReleaseError: They differ, the file cannot run here, or it took the process down.
    """
    command = [sys.executable, "-m", __name__, str(model), str(golden)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RefusedReleaseError(f"Expected the self-test of {model.name} within {SECONDS:g} s.") from error
    if done.returncode < 0:
        raise RefusedReleaseError(
            f"The self-test of {model.name} ended with {signal.Signals(-done.returncode).name}."
        )
    if done.returncode != 0:
        said = done.stdout.strip() or done.stderr.strip()[-300:]
        raise RefusedReleaseError(f"The self-test of {model.name} failed: {said}")


def compare(model: Path, golden: Path) -> None:
    """Runs the golden examples through the file, in this process.

    Raises:
        RefusedReleaseError: The golden file has no outputs for the model, or they differ by more than
            `TOLERANCE` of their range.
    """
    import numpy as np

    from ...hardware.inference import Inference

    try:
        with golden.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, expected = arrays["x"], arrays[model.name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RefusedReleaseError(
            f"Expected golden vectors for {model.name} in {golden.name}: {error}."
        ) from error
    with Inference(model) as inference:
        (output, *_) = inference.predict(x)
    if output.shape != expected.shape:
        raise RefusedReleaseError(f"Expected outputs of shape {expected.shape}, received {output.shape}.")
    allowed = TOLERANCE * max(float(np.ptp(expected)), 1e-6)
    difference = float(np.abs(output - expected).max())
    if not difference <= allowed:
        raise RefusedReleaseError(
            f"Expected the golden outputs within {allowed:.3g}, they differ by {difference:.3g}."
        )


def main() -> None:
    """Leaves with 0 if the model computes what it should, else says why not on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("golden", type=Path)
    arguments = parser.parse_args()
    try:
        compare(arguments.model, arguments.golden)
    except HedgerowError as error:
        sys.stdout.write(error.args[0])
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
