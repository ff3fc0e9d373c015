"""What native libraries write on standard error, in a file instead of on the user's terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def native_log(path: Path) -> Iterator[TextIO]:
    """Sends the process's file descriptor 2 to a file; Python's own `sys.stderr` still reaches the terminal.

    TensorFlow and its converter talk about themselves there before any log level is heard.

    Args:
        path: Appended to; its folder is there.

    Yields:
        The terminal, as `sys.stderr` was.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="tensorflow|keras|jax")
    before = sys.stderr
    before.flush()
    terminal = os.dup(2)
    with path.open("ab") as log, os.fdopen(os.dup(terminal), "w", buffering=1) as stderr:
        os.dup2(log.fileno(), 2)
        sys.stderr = stderr
        try:
            yield stderr
        finally:
            sys.stderr = before
            os.dup2(terminal, 2)
            os.close(terminal)
