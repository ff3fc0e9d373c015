"""Runs calls of model files in a process of its own: tflite-runtime and TensorFlow must not share one.

Usage: python device_process.py RUNTIME FOLDER, where FOLDER/cases.json lists files and the calls of each;
every call's inputs are in FOLDER/{case}_{call}.npz, and its outputs go to FOLDER/{case}_{call}.out.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hedgerow.hardware import interpreter


def run(runtime: str, folder: Path) -> None:
    cases = json.loads((folder / "cases.json").read_text())
    for case, entry in enumerate(cases):
        (folder / "progress").write_text(f"case {case}: {entry['file']}")
        with interpreter.load(entry["file"], runtime=runtime) as loaded:
            for call, signature in enumerate(entry["signatures"]):
                with np.load(folder / f"{case}_{call}.npz") as arrays:
                    inputs = {name: arrays[name] for name in arrays.files}
                np.savez(folder / f"{case}_{call}.out.npz", **loaded.run(signature, inputs))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
