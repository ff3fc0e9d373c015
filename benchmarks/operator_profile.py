"""Where the time of a signature goes, per operator: runs each of them alone.

Neither runtime has a profiler in Python, so the file is cut: each operator, with its constants, becomes one
of its own and is timed with inputs of its shapes. Operators alike are timed once. What a delegate gains by
fusing neighbours is not seen, nor what a cold cache costs; the last lines compare the sum with the whole.

Usage: python benchmarks/operator_profile.py FILE [--signature train] [--runtime litert] [--top 30]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from hedgerow.hardware.interpreter import Interpreter, load
from hedgerow.hardware.operators import operator_name

RUNTIMES = {"litert": "ai_edge_litert.interpreter", "tflite": "tflite_runtime.interpreter"}
STATEFUL = (schema.TensorType.RESOURCE, schema.TensorType.VARIANT)


def main() -> None:
    """Prints the most expensive operators, then the time by kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--signature", default="train")
    parser.add_argument("--runtime", default="litert", choices=("litert", "tflite"))
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    content = arguments.file.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    groups, skipped = _groups(model, arguments.signature)
    rows, by_kind = [], defaultdict(float)
    for operators in groups.values():
        content_alone, label = _alone(model, arguments.signature, operators[0])
        milliseconds = _milliseconds(content_alone, arguments.runtime, arguments.runs)
        if milliseconds is None:
            skipped[label] += len(operators)
            continue
        rows.append((milliseconds * len(operators), len(operators), label))
        by_kind[label.split(" ")[0]] += milliseconds * len(operators)
    for milliseconds, count, label in sorted(rows, reverse=True)[: arguments.top]:
        print(f"{milliseconds:8.3f} ms  {count:3d} x {label}")
    print()
    for kind, milliseconds in sorted(by_kind.items(), key=lambda item: -item[1]):
        print(f"{milliseconds:8.3f} ms  {kind}")
    print(f"{sum(by_kind.values()):8.3f} ms  all of these operators alone; not timed: {dict(skipped)}")
    whole = load(arguments.file, runtime=arguments.runtime)
    print(f"{_fastest(_step(whole, arguments.signature), arguments.runs):8.3f} ms  the signature as a whole")


def _groups(model: schema.ModelT, signature: str) -> tuple[dict[Hashable, list[int]], Counter[str]]:
    """Numbers of operators that are alike; and how many are of kinds that cannot run alone."""
    graph = _graph(model, signature)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    skipped: Counter[str] = Counter()
    for number, operator in enumerate(graph.operators):
        tensors = [*(operator.inputs if operator.inputs is not None else ()), *operator.outputs]
        if not len(operator.outputs) or any(i >= 0 and graph.tensors[i].type in STATEFUL for i in tensors):
            skipped[_kind(model, operator)] += 1
            continue
        options = tuple(sorted(vars(operator.builtinOptions).items())) if operator.builtinOptions else ()
        shapes = tuple(tuple(graph.tensors[i].shape) if i >= 0 else () for i in tensors)
        constants = tuple(_constant(model, graph, i) is not None for i in tensors)
        groups[_kind(model, operator), str(options), shapes, constants].append(number)
    return groups, skipped


def _alone(model: schema.ModelT, signature: str, number: int) -> tuple[bytes, str]:
    """A file of one operator, and what to call it."""
    graph = _graph(model, signature)
    operator = graph.operators[number]
    inputs = [int(i) for i in operator.inputs if i >= 0 and _constant(model, graph, i) is None]
    own = schema.ModelT()
    own.version, own.description = 3, "one operator"
    own.operatorCodes, own.buffers = model.operatorCodes, [schema.BufferT()]
    own.subgraphs, single = [schema.SubGraphT()], schema.OperatorT()
    single.__dict__.update(operator.__dict__)
    places: dict[int, int] = {}
    tensors = []
    for index in dict.fromkeys([*map(int, operator.inputs), *map(int, operator.outputs)]):
        if index < 0:
            continue
        tensor = schema.TensorT()
        tensor.__dict__.update(graph.tensors[index].__dict__)
        tensor.buffer = 0
        if (data := _constant(model, graph, index)) is not None:
            own.buffers.append(schema.BufferT())
            own.buffers[-1].data = np.asarray(data, np.uint8)
            tensor.buffer = len(own.buffers) - 1
        places[index] = len(tensors)
        tensors.append(tensor)
    single.inputs = [places.get(int(i), -1) for i in operator.inputs]
    single.outputs = [places[int(i)] for i in operator.outputs]
    subgraph = own.subgraphs[0]
    subgraph.tensors, subgraph.operators = tensors, [single]
    subgraph.inputs = [places[i] for i in dict.fromkeys(inputs)]
    subgraph.outputs = single.outputs
    shapes = ", ".join(str(list(graph.tensors[i].shape)) for i in operator.inputs if i >= 0)
    label = f"{_kind(model, operator)} {shapes} -> {list(graph.tensors[operator.outputs[0]].shape)}"
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(own.Pack(builder), b"TFL3")
    return bytes(builder.Output()), label


def _graph(model: schema.ModelT, signature: str) -> schema.SubGraphT:
    entry = next(s for s in model.signatureDefs if s.signatureKey.decode() == signature)
    return model.subgraphs[entry.subgraphIndex]


def _kind(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return operator_name(max(code.builtinCode, code.deprecatedBuiltinCode))


def _constant(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> np.ndarray | None:
    data = model.buffers[graph.tensors[index].buffer].data if index >= 0 else None
    return data if data is not None and len(data) else None


def _milliseconds(content: bytes, runtime: str, runs: int) -> float | None:
    """The fastest of so many runs; None where an operator cannot stand alone."""
    try:
        module = importlib.import_module(RUNTIMES[runtime])
        bare = module.Interpreter(model_content=content, num_threads=1)
        random = np.random.default_rng(0)
        bare.allocate_tensors()
        for detail in bare.get_input_details():
            value = random.random(detail["shape"]) + 0.5
            bare.set_tensor(detail["index"], np.asarray(value, detail["dtype"]))
        return _fastest(bare.invoke, runs)
    except (RuntimeError, ValueError):
        return None


def _fastest(step: Callable[[], object], runs: int) -> float:
    fastest = float("inf")
    for _ in range(runs + 3):
        start = time.perf_counter()
        step()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest * 1e3


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
