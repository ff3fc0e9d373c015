"""What a release has to prove on this very device, in a process of its own, and what came of it."""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

from ...errors import RefusedReleaseError
from ...hardware.runtime import RuntimeName
from ..sample_policy import SamplePolicy

SECONDS = 120.0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A model file, and how it is to be tried.

    Args:
        model: Path of the file.
        golden: Path of the golden vectors; empty: only the accuracy counts.
        answers: Names under which the golden vectors may hold the file's outputs, the first one counts.
        runtime: The TFLite runtime.
        num_threads: Its threads.
        target: The accelerator that is to run it; empty for the CPU alone.
        library: The accelerator's library, where the user chose one.
        samples: The device's samples folder; empty: no accuracy is measured.
        sampling: Its policy.
        samples_at_least: With fewer test samples no accuracy is measured.
    """

    model: str
    golden: str = ""
    answers: tuple[str, ...] = ()
    runtime: RuntimeName = "auto"
    num_threads: int = 1
    target: str = ""
    library: str = ""
    samples: str = ""
    sampling: SamplePolicy = SamplePolicy()
    samples_at_least: int = 1


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial.

    Args:
        failure: Why the file must not serve; empty: it may.
        accuracy: Share of the device's own test samples that it answers as their labels say; None where that
            cannot be said.
        examples: How many those were.
    """

    failure: str = ""
    accuracy: float | None = None
    examples: int = 0


def hold(trial: Trial, name: str) -> Verdict:
    """Tries the file `name` of a release in a process of its own.

    Raises:
        RefusedReleaseError: It cannot run here, took the process down, or does not compute what it should.
    """
    verdict = _hold(trial)
    if verdict.failure:
        raise RefusedReleaseError(f"The self-test of {name} {verdict.failure}")
    return verdict


def _hold(trial: Trial) -> Verdict:
    command = [sys.executable, "-m", f"{__package__}.self_test", msgspec.json.encode(trial).decode()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Verdict(failure=f"took longer than {SECONDS:g} s.")
    if done.returncode < 0:
        return Verdict(failure=f"ended with {signal.Signals(-done.returncode).name}.")
    try:
        return msgspec.json.decode(done.stdout, type=Verdict)
    except msgspec.MsgspecError:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        return Verdict(failure=f"ended with exit code {done.returncode}: {said}")
