"""A process that verifies one system of the zoo after the other.

`python -m hedgerow.zoo_worker OPTIONS.json FOLDER` reads names from its standard input, a line each. An empty
line ends it, and so does the end of the input, since then its parent has gone. On its standard output it says
`NAME<tab>STAGE` before each stage, and `NAME<tab>` when the row is in `FOLDER/NAME.json`. TensorFlow and the
converter are loaded once.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path

import keras
import msgspec

from .quantization import Converter
from .zoo_verification import VerifyOptions, verify


def main(options_file: Path, folder: Path) -> None:
    """Verifies until there are no more names."""
    # Libraries write on descriptor 1 as they please; what we say goes past them.
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = msgspec.json.decode(options_file.read_bytes(), type=VerifyOptions)
    names: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(names,), daemon=True).start()
    with Converter() as converter:
        while name := names.get():

            def tell(stage: str, name: str = name) -> None:
                say.write(f"{name}\t{stage}\n")

            row = verify(name, options, converter=converter, on_stage=tell)
            partial = folder / f"{name}.partial"
            partial.write_bytes(msgspec.json.encode(row))
            partial.replace(folder / f"{name}.json")
            keras.backend.clear_session()
            tell("")


def _read(names: queue.Queue[str]) -> None:
    """Hands the names on, up to the empty line; without one our parent has gone."""
    rest = b""
    while part := os.read(0, 4096):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            names.put(line.decode())
            if not line:
                return
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
