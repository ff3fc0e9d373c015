"""The converter's process as its parent sees it: started early, asked for files, replaced when it crashed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import ConverterError, DiskError

_CLOSE_SECONDS = 1.0
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


class ConverterProcess:
    """A process with the TFLite converter and a folder for its files.

    It imports TensorFlow, which takes seconds: start it before this process does the same.

    Attributes:
        process: The process that runs; None before the first job and after the last.
        log: What it printed.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hedgerow-convert-")
        self.process: subprocess.Popen[str] | None = None
        self.log = Path(self._folder.name) / "converter.log"

    def start(self) -> None:
        """Starts the process without waiting for it."""
        if self.process is not None and self.process.poll() is None:
            return
        self._end()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", self._folder.name, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _ENVIRONMENT,
            )

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for the files of one job.

        Raises:
            DiskError: The disk of temporary files failed.
        """
        try:
            with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
                yield Path(name)
        except OSError as error:
            raise DiskError(
                f"Cannot write to the temporary folder {self._folder.name!r}: {error.strerror or error}.",
                remedy="Make room there, or name another folder with the variable TMPDIR.",
            ) from error

    def answer(self, job: Mapping[str, Any], model: str) -> bytes:
        """Sends one job and waits for what it makes.

        Args:
            job: What `worker` does, with the file to write as `output`.
            model: Whose job it is, for the message.

        Raises:
            ConverterError: The process refused the job, or ended on it.
        """
        self.start()
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._end()
            end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ConverterError(
                f"The TFLite converter crashed on the model {model!r} ({end}). {self._last_words()}",
                model=model,
            )
        error = json.loads(line)["error"]
        if error is not None:
            words = " ".join(error.split())[:1000].rstrip(".")
            raise ConverterError(f"The TFLite converter refused the model {model!r}: {words}.", model=model)
        return Path(job["output"]).read_bytes()

    def close(self) -> None:
        """Ends the process and removes its files."""
        self._end()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self) -> int:
        """Ends the process, if there is one, and returns its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        return process.returncode

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"Its last words: {lines[-1][:500].rstrip('.')}." if lines else "It printed nothing."
