"""Runs a compiled file on XMOS's host interpreter: `python xcore_host.py MODEL GIVEN.npz MADE.npz`.

Run as a script by the Python of the environment that has xmos-ai-tools, which need not have Hedgerow.
"""

from __future__ import annotations

import sys

import numpy as np


def main(model: str, given: str, made: str) -> None:
    """Runs every example of `given`, arrays `[N, ...]` in the order of the inputs, and writes the outputs."""
    from xmos_ai_tools.xinterpreters import TFLMHostInterpreter

    with np.load(given) as stored:
        inputs = [stored[name] for name in stored.files]
    interpreter = TFLMHostInterpreter()
    interpreter.set_model(model_path=model)
    rows = []
    for row in range(len(inputs[0])):
        # A fused LSTM keeps its state from run to run.
        interpreter.reset()
        for index, values in enumerate(inputs):
            interpreter.set_tensor(index, values[row : row + 1])
        interpreter.invoke()
        details = interpreter.get_output_details()
        rows.append([interpreter.get_tensor(detail["index"]).copy() for detail in details])
    np.savez(made, *[np.concatenate(column) for column in zip(*rows, strict=True)])


if __name__ == "__main__":
    main(*sys.argv[1:])
