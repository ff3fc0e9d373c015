"""Where the time of a signature goes, per operator: runs ever longer prefixes of its graph.

Neither runtime has a profiler in Python, so the file is cut: for each operator a copy is made whose
signature returns that operator's output and ends there. The difference between one prefix and the next is
the operator's time. With a delegate that fuses neighbours, differences of single operators are noisy;
their sums by kind are not.

Usage: python benchmarks/operator_profile.py FILE [--signature train] [--runtime litert] [--every 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hedgerow.hardware.interpreter import Interpreter, load
from hedgerow.hardware.operators import operator_name

UNREADABLE = (schema.TensorType.RESOURCE, schema.TensorType.VARIANT)


def main() -> None:
    """Prints the operators in order, then by kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--signature", default="train")
    parser.add_argument("--runtime", default="litert", choices=("litert", "tflite"))
    parser.add_argument("--every", type=int, default=1, help="cut after every n-th operator only")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    content = arguments.file.read_bytes()
    rows = profile(content, arguments.signature, arguments.runtime, arguments.every, arguments.runs)
    by_kind: dict[str, float] = defaultdict(float)
    for kinds, shape, milliseconds in rows:
        by_kind[kinds] += milliseconds
        print(f"{milliseconds:8.3f} ms  {kinds:40s} {shape}")
    print(f"\n{sum(by_kind.values()):8.3f} ms in all")
    for kinds, milliseconds in sorted(by_kind.items(), key=lambda item: -item[1]):
        print(f"{milliseconds:8.3f} ms  {kinds}")


def profile(
    content: bytes, signature: str, runtime: str, every: int, runs: int
) -> list[tuple[str, list[int], float]]:
    """Operators since the last cut, shape of the last output, and milliseconds, in order of execution."""
    prefixes = list(_prefixes(content, signature, every))
    interpreters = [load(prefix, runtime=runtime) for _, _, prefix in prefixes]
    steps = [_step(interpreter, signature) for interpreter in interpreters]
    fastest = [float("inf")] * len(steps)
    for _ in range(runs):
        for index, step in enumerate(steps):
            start = time.perf_counter()
            step()
            fastest[index] = min(fastest[index], (time.perf_counter() - start) * 1e3)
    spent = np.diff(fastest, prepend=0.0)
    return [(kinds, shape, float(own)) for (kinds, shape, _), own in zip(prefixes, spent, strict=True)]


def _prefixes(content: bytes, signature: str, every: int) -> Iterator[tuple[str, list[int], bytes]]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)
    entry = next(s for s in model.signatureDefs if s.signatureKey.decode() == signature)
    graph = model.subgraphs[entry.subgraphIndex]
    operators = graph.operators
    model.signatureDefs = [entry]
    pending: list[str] = []
    for index, operator in enumerate(operators):
        code = model.operatorCodes[operator.opcodeIndex]
        pending.append(operator_name(max(code.builtinCode, code.deprecatedBuiltinCode)))
        readable = len(operator.outputs) and graph.tensors[operator.outputs[0]].type not in UNREADABLE
        if readable and (len(pending) >= every or index + 1 == len(operators)):
            result = operator.outputs[0]
            graph.operators, graph.outputs = operators[: index + 1], [result]
            output = schema.TensorMapT()
            output.name, output.tensorIndex = "prefix", result
            entry.outputs = [output]
            name, graph.tensors[result].name = graph.tensors[result].name, "prefix"
            yield ",".join(sorted(set(pending))), list(graph.tensors[result].shape), _packed(model)
            graph.tensors[result].name = name
            pending = []


def _packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _step(interpreter: Interpreter, signature: str) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    inputs = {}
    for name, spec in interpreter.signatures()[signature].inputs.items():
        whole = spec.dtype.kind in "iu"
        value = generator.integers(0, 2, spec.shape) if whole else generator.random(spec.shape)
        inputs[name] = np.asarray(value * 1e-3 if name == "learning_rate" else value, spec.dtype)
    return lambda: interpreter.run(signature, inputs)


if __name__ == "__main__":
    sys.exit(main())
