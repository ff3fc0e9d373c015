"""How fast a file runs here: latency percentiles, throughput and memory, in a process of its own.

tflite-runtime and LiteRT must not share a process, and the peak memory of one file says nothing if another
was loaded before it: `python -m hedgerow.hardware.benchmark` measures one file on one runtime and prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from ..errors import HedgerowError, InterpreterError, UsageError
from . import interpreter
from .process import peak_mib, resident_mib
from .runtime import RuntimeName

_TIMEOUT_SECONDS = 600


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What one file took on one runtime.

    Attributes:
        file: Its name.
        size_bytes: Its size.
        runtime: The runtime with its version.
        num_threads: Threads of the kernels.
        runs: Runs that were measured, after the warm-up.
        load_ms: Loading and preparing, once.
        p50_ms: Median latency of a run; so p90, p99, minimum and maximum.
        per_second: Runs in a second, one after the other.
        peak_mib: The most memory that the process had.
        model_mib: What of it came with the model.
    """

    file: str
    size_bytes: int
    runtime: str
    num_threads: int
    runs: int
    load_ms: float
    minimum_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    maximum_ms: float
    per_second: float
    peak_mib: float
    model_mib: float


def benchmark(
    path: str | Path,
    *,
    runtime: str = "litert",
    num_threads: int = 1,
    runs: int = 50,
    warm_up: int = 5,
    inputs: str | Path | None = None,
    seed: int = 0,
) -> Benchmark:
    """Measures a file in a fresh process.

    Args:
        path: The file.
        runtime: `tflite` or `litert`.
        num_threads: Threads of the kernels.
        runs: Runs to measure.
        warm_up: Runs before them.
        inputs: An `.npz` with one array per input, of exactly the file's shapes and types; random numbers
            without.
        seed: Seed of those.

    Raises:
        UsageError: A number is out of range.
        InterpreterError: The runtime is missing, or failed on this file.
    """
    if runs < 1 or warm_up < 0 or num_threads < 1:
        raise UsageError(
            f"Expected runs and num_threads from 1 and warm_up from 0, received {runs}, {num_threads} and "
            f"{warm_up}."
        )
    options = {"runtime": runtime, "num-threads": num_threads, "runs": runs, "warm-up": warm_up, "seed": seed}
    command = [sys.executable, "-m", __name__, str(path)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command += ["--inputs", str(inputs)] if inputs is not None else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InterpreterError(f"{path} did not finish {runs} runs in {_TIMEOUT_SECONDS} s.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InterpreterError(f"Cannot measure {Path(path).name!r}: {lines[-1][:500].rstrip('.')}.")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Benchmark)


def measure(
    path: Path, *, runtime: RuntimeName, num_threads: int, runs: int, warm_up: int,
    inputs: Path | None, seed: int,
) -> Benchmark:  # fmt: skip
    """Measures a file in this process; see :func:`benchmark`."""
    before = resident_mib()
    started = time.perf_counter()
    with interpreter.load(path, runtime=runtime, num_threads=num_threads) as loaded:
        signatures = loaded.signatures()
        name = "infer" if "infer" in signatures else next(iter(signatures))
        arrays = _inputs(signatures[name], inputs, seed)
        loaded.run(name, arrays)
        load_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(warm_up):
            loaded.run(name, arrays)
        times = []
        for _ in range(runs):
            begin = time.perf_counter()
            loaded.run(name, arrays)
            times.append(1e3 * (time.perf_counter() - begin))
        minimum, p50, p90, p99, maximum = (
            float(value) for value in np.percentile(times, [0, 50, 90, 99, 100])
        )
        return Benchmark(
            file=path.name,
            size_bytes=path.stat().st_size,
            runtime=str(loaded.runtime),
            num_threads=num_threads,
            runs=runs,
            load_ms=load_ms,
            minimum_ms=minimum,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            maximum_ms=maximum,
            per_second=1e3 * runs / sum(times),
            peak_mib=peak_mib(),
            model_mib=max(0.0, resident_mib() - before),
        )


def _inputs(
    spec: interpreter.SignatureSpec, inputs: Path | None, seed: int
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    if inputs is not None:
        with np.load(inputs) as stored:
            return dict(stored)
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, tensor in spec.inputs.items():
        shape = [max(1, size) for size in tensor.shape]
        if np.issubdtype(tensor.dtype, np.floating):
            arrays[name] = rng.uniform(-1, 1, shape).astype(tensor.dtype)
        else:
            # Integers of a quantized tensor may be any; others are indices or labels, of which 0 always
            # exists.
            high = 127 if tensor.scale else 1
            arrays[name] = rng.integers(0, high, shape).astype(tensor.dtype)
    return arrays


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--runtime")
    for option in ("--num-threads", "--runs", "--warm-up", "--seed"):
        parser.add_argument(option, type=int)
    parser.add_argument("--inputs", type=Path)
    try:
        result = measure(**vars(parser.parse_args()))
    except HedgerowError as error:
        sys.exit(str(error.args[0]))
    sys.stdout.write(json.dumps(msgspec.to_builtins(result)) + "\n")


if __name__ == "__main__":
    _main()
