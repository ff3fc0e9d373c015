"""Programs in a process of their own: whatever they do, even crash, becomes a sentence."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 600
_ERROR = re.compile(r"(?:\w*Error|error|ERROR|Internal error)\b.*: ")
_WORDS = 500


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        exit_code: Its exit code; negative for the signal that ended it, None if it took too long.
        output: What it printed on standard output.
        errors: What it printed on standard error.
    """

    exit_code: int | None
    output: str
    errors: str

    @property
    def succeeded(self) -> bool:
        """Whether it left with 0."""
        return self.exit_code == 0

    @property
    def last_words(self) -> str:
        """Why it failed, in its own words where it has any, without a full stop."""
        if self.exit_code is None:
            return f"it did not finish in {TIMEOUT_SECONDS} s"
        if self.exit_code < 0:
            return f"it crashed ({signal.Signals(-self.exit_code).name})"
        lines = [line.strip() for line in (self.output + "\n" + self.errors).splitlines() if line.strip()]
        starts = [number for number, line in enumerate(lines) if _ERROR.match(line)]
        words = " ".join(lines[starts[-1] :] if starts else lines[-1:])
        return words[:_WORDS].rstrip(". ") or f"it printed nothing and left with {self.exit_code}"


def run(command: Sequence[str | Path], *, folder: Path | None = None) -> Ended:
    """Runs a program to its end and keeps all that it prints.

    Args:
        command: The program and its arguments.
        folder: Where it runs; by default here.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(None, "", "")
    except OSError as error:
        return Ended(126, "", f"Error: {error.strerror}: {command[0]}")
    return Ended(done.returncode, done.stdout, done.stderr)


def run_module(module: str, *arguments: str | Path, folder: Path | None = None) -> Ended:
    """Runs a module of this Python, as `python -m` does."""
    return run([sys.executable, "-m", module, *arguments], folder=folder)


def find(name: str) -> Path | None:
    """Where a program is: on the PATH, or beside this Python, where pip puts what a package brings."""
    folders = (*os.environ.get("PATH", "").split(os.pathsep), str(Path(sys.executable).parent))
    candidates = (Path(folder) / name for folder in folders if folder)
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)
