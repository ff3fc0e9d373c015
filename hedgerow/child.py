"""Runs a module as a process that ends with its parent: `python -m hedgerow.child MODULE [ARGUMENT ...]`.

The parent holds the other end of our standard input. When it is gone, even by kill -9, the pipe closes, and
we stop as at SIGTERM: nothing is left behind by a demo that was killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _stop_with_parent() -> None:
    # Not through `sys.stdin`, whose lock this thread would still hold when the interpreter shuts down.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Starts the watch and becomes the module."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
