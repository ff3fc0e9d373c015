"""The process that tries a release: `python -m hedgerow.edge.release.self_test '<trial as JSON>'`.

A golden file is an `.npz` with examples `x` of shape `[n, ...]` and, under the name of each model file, the
float outputs `[n, ...]` that the file gave where it was made.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import HedgerowError, RefusedReleaseError, SamplesError
from ...hardware.delegates import delegate_for
from ...hardware.inference import Inference
from ...hardware.machine import probe
from ...hardware.process import limit_memory
from ..sample_source import SampleSource
from ..samples import Samples
from .trial import Trial, Verdict

# XNNPACK's integer kernels differ from the reference ones by up to 9 of 256 steps on a keyword model.
TOLERANCE = 0.05
GOLDEN_BYTES_AT_MOST = 64 << 20


def carry_out(trial: Trial) -> Verdict:
    """Runs the golden vectors and the device's own test samples through the file, in this process.

    Raises:
        HedgerowError: The file cannot be run, or its outputs are not the golden ones.
    """
    delegate = delegate_for(trial.target, library=trial.library)
    with Inference(
        Path(trial.model),
        runtime=trial.runtime,
        num_threads=trial.num_threads,
        delegate=delegate,
        float_ports=delegate is None,
    ) as inference:
        if trial.golden:
            compare(inference, Path(trial.golden), trial.answers)
        samples = _samples(trial)
        return Verdict() if samples is None else measure(inference, samples)


def compare(inference: Inference, golden: Path, answers: tuple[str, ...]) -> None:
    """Compares the file's outputs with the golden ones.

    Args:
        inference: The file.
        golden: The golden vectors.
        answers: Names of the outputs in it; the first one that is there counts.

    Raises:
        RefusedReleaseError: The golden file has no outputs for the model, is a bomb, or they differ by more
            than `TOLERANCE` of their range.
    """
    try:
        with zipfile.ZipFile(golden) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > GOLDEN_BYTES_AT_MOST:
            raise RefusedReleaseError(
                f"found {golden.name} to unfold to {size} bytes, of at most {GOLDEN_BYTES_AT_MOST}."
            )
        with golden.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            name = next((name for name in answers if name in arrays), answers[0])
            x, expected = arrays["x"], arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RefusedReleaseError(f"found no golden vectors in {golden.name}: {error}.") from error
    (output, *_) = inference.predict(x)
    if output.shape != expected.shape:
        raise RefusedReleaseError(f"expected outputs of shape {expected.shape}, received {output.shape}.")
    allowed = TOLERANCE * max(float(np.ptp(expected)), 1e-6)
    difference = float(np.abs(output - expected).max())
    if not difference <= allowed:
        raise RefusedReleaseError(
            f"expected the golden outputs within {allowed:.3g}, they differ by {difference:.3g}."
        )


def measure(inference: Inference, samples: Samples) -> Verdict:
    """How many of the device's own test samples the file answers as their labels say.

    Nothing is said of samples that are not for this model, or whose labels are no classes.
    """
    expected = [spec.shape[1:] for spec in inference.spec.inputs.values()]
    classes = samples.y.ndim == 1 and samples.y.dtype.kind in "iub"
    inputs = tuple(samples.x.values()) if isinstance(samples.x, dict) else (samples.x,)
    if not classes or [array.shape[1:] for array in inputs] != expected:
        return Verdict()
    (output, *_) = inference.predict(*inputs)
    if output.ndim != 2:
        return Verdict()
    right = int(np.count_nonzero(_classes(output) == samples.y))
    return Verdict(accuracy=right / len(samples), examples=len(samples))


def _classes(output: NDArray[np.float32]) -> NDArray[np.intp]:
    """The class of each row: the largest output, or, of a single sigmoid, whether it is above a half."""
    if output.shape[1] == 1:
        return (output[:, 0] > 0.5).astype(np.intp)
    classes: NDArray[np.intp] = output.argmax(axis=1)
    return classes


def _samples(trial: Trial) -> Samples | None:
    if not trial.samples:
        return None
    try:
        with SampleSource(Path(trial.samples), trial.sampling) as source:
            samples = source.load("test")
    except SamplesError:
        return None
    return samples if len(samples) >= trial.samples_at_least else None


def main() -> None:
    """Writes the verdict to what was standard output; whatever a driver prints goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    trial = msgspec.json.decode(sys.argv[1], type=Trial)
    # Nothing is known of the file yet: one that asks for all memory must not take other programs with it.
    if memory := probe().memory_mib:
        limit_memory(memory // 2)
    try:
        verdict = carry_out(trial)
    except HedgerowError as error:
        verdict = Verdict(failure=f"failed: {error.args[0]}")
    except MemoryError:
        verdict = Verdict(failure="failed: it needs more memory than this device has.")
    os.write(answer, msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
