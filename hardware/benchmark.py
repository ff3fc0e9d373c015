"""How fast a file runs here: latency percentiles, throughput and memory, in a process of its own.

tflite-runtime and LiteRT must not share a process, and the peak memory of one file says nothing if another
was loaded before it: `python -m hedgerow.hardware.benchmark` measures one file on one runtime and prints
JSON. TFLite Micro is left out: its kernels on this machine say nothing about a microcontroller.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import HedgerowError, InterpreterError, ModelFileError, TensorError, UsageError
from . import execution, interpreter, program
from .graph import ModelGraphs, read_graphs
from .inference import quantize
from .process import peak_mib, resident_mib
from .runtime import RuntimeName

Array = NDArray[Any]
RUNTIMES = ("tflite", "litert")
_RANDOM_EXAMPLES = 8


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What one file took on one runtime.

    Attributes:
        file: Its name.
        size_bytes: Its size.
        runtime: The runtime with its version.
        num_threads: Threads of the kernels.
        runs: Runs that were measured, after the warm-up.
        load_ms: Loading, preparing and the first run, once.
        p50_ms: Median latency of a run; so p90, p99, minimum and maximum.
        examples: Examples in a run, as many as the file takes at once.
        per_second: Runs in a second, one after the other.
        peak_mib: The most memory that the process had: Python, numpy, the runtime and the model.
        model_mib: What of it came with the model.
        inputs: `given` or `random`.
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
    examples: int
    per_second: float
    peak_mib: float
    model_mib: float
    inputs: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a runtime could not run.

    Attributes:
        file: Its name.
        size_bytes: Its size.
        runtime: The runtime.
        failure: Why, in its words.
    """

    file: str
    size_bytes: int
    runtime: str
    failure: str


def benchmark(
    path: str | Path,
    *,
    runtime: str = "litert",
    num_threads: int = 1,
    runs: int = 50,
    warm_up: int = 5,
    data: str | Path | None = None,
    seed: int = 0,
) -> Benchmark:
    """Measures a file in a fresh process.

    Args:
        path: The file.
        runtime: `tflite` or `litert`.
        num_threads: Threads of the kernels.
        runs: Runs to measure.
        warm_up: Runs before them.
        data: An `.npz` with one array of examples `[N, ...]` per input, by its name or in its order; real
            numbers are quantized as the file asks. Random numbers without.
        seed: Seed of those.

    Raises:
        UsageError: A number is out of range, or there is no such runtime.
        InterpreterError: The runtime is missing, or failed on this file.
    """
    if runs < 1 or warm_up < 0 or num_threads < 1:
        raise UsageError(
            f"Expected runs and num_threads from 1 and warm_up from 0, received {runs}, {num_threads} and "
            f"{warm_up}."
        )
    if runtime not in RUNTIMES:
        raise UsageError(f"Expected a runtime out of {', '.join(RUNTIMES)}, received {runtime!r}.")
    options = {"runtime": runtime, "num-threads": num_threads, "runs": runs, "warm-up": warm_up, "seed": seed}
    if data is not None:
        options["data"] = str(data)
    arguments = [f"--{name}={value}" for name, value in options.items()]
    ended = program.run_module(__name__, str(path), *arguments)
    if not ended.succeeded:
        raise InterpreterError(
            f"Cannot measure {Path(path).name!r} on {runtime}: {ended.last_words}.",
            remedy="Try the other runtime, or see `hedgerow inspect` for what the file needs.",
            words=ended.last_words,
        )
    return msgspec.json.decode(ended.output.splitlines()[-1], type=Benchmark)


def attempt(path: Path, *, runtime: str, **options: Any) -> Benchmark | Failure:
    """Measures a file as :func:`benchmark` does; a runtime that cannot run it is a result too."""
    try:
        return benchmark(path, runtime=runtime, **options)
    except InterpreterError as error:
        words = str(error.facts.get("words", error.args[0])).removeprefix("Error: ")
        return Failure(file=path.name, size_bytes=path.stat().st_size, runtime=runtime, failure=words)


def measure(
    path: Path, *, runtime: RuntimeName, num_threads: int, runs: int, warm_up: int,
    data: Path | None, seed: int,
) -> Benchmark:  # fmt: skip
    """Measures a file in this process; see :func:`benchmark`."""
    model = read_graphs(path)
    examples = _examples(model, data, seed)
    interpreter.prepare(runtime)
    before, started = resident_mib(), time.perf_counter()
    with interpreter.load(path, runtime=runtime, num_threads=num_threads) as loaded:
        name = model.inference_signature
        turns = itertools.cycle(examples)
        loaded.run(name, next(turns))
        load_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(warm_up):
            loaded.run(name, next(turns))
        times = []
        for _, example in zip(range(runs), turns, strict=False):
            begin = time.perf_counter()
            loaded.run(name, example)
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
            examples=max(execution.batch_size(spec) for spec in execution.specs(model)[0]),
            per_second=1e3 * runs / sum(times),
            peak_mib=peak_mib(),
            model_mib=max(0.0, resident_mib() - before),
            inputs="random" if data is None else "given",
        )


def _examples(model: ModelGraphs, data: Path | None, seed: int) -> list[dict[str, Array]]:
    """The examples that are run in turn, each as the inputs that the runtime takes, by name."""
    taken = execution.specs(model)[0]
    names = model.input_names
    if data is None:
        columns = execution.random_inputs(model, examples=_RANDOM_EXAMPLES, seed=seed)
    else:
        columns = [
            quantize(values, spec) if np.issubdtype(values.dtype, np.floating) else values
            for values, spec in zip(_stored(data, names), taken, strict=True)
        ]
    for name, spec, values in zip(names, taken, columns, strict=True):
        if values.ndim != max(1, len(spec.shape)) or len(values) < execution.batch_size(spec):
            raise TensorError(
                f"Expected {execution.batch_size(spec)} or more examples for the input {name!r}, {spec}; "
                f"received {values.dtype}{list(values.shape)}."
            )
    portions = [execution.batches(values, spec) for values, spec in zip(columns, taken, strict=True)]
    return [dict(zip(names, portion, strict=True)) for portion in zip(*portions, strict=False)]


def _stored(data: Path, names: list[str]) -> list[Array]:
    try:
        with np.load(data) as stored:
            arrays = dict(stored)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"Expected an .npz file, cannot read {str(data)!r}: {error}.") from error
    if set(names) <= arrays.keys():
        return [arrays[name] for name in names]
    if len(names) == 1 and "x" in arrays:
        return [arrays["x"]]
    if len(arrays) != len(names):
        raise TensorError(
            f"Expected one array for each of the inputs {names} in {data.name}, received {sorted(arrays)}."
        )
    return list(arrays.values())


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--runtime")
    for option in ("--num-threads", "--runs", "--warm-up", "--seed"):
        parser.add_argument(option, type=int)
    parser.add_argument("--data", type=Path)
    try:
        result = measure(**vars(parser.parse_args()))
    except HedgerowError as error:
        sys.exit(f"Error: {error.args[0]}")
    sys.stdout.write(json.dumps(msgspec.to_builtins(result)) + "\n")


if __name__ == "__main__":
    _main()
