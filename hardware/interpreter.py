"""The TFLite interpreter behind one small interface: the only file that imports a runtime.

Two runtimes read the same files. ``tflite`` is tflite-runtime 2.14, 7 MB, for Python up to 3.11;
``litert`` is ai-edge-litert 2.x, which also works in a process that has loaded TensorFlow. tflite-runtime
must never share a process with TensorFlow: both carry the same C++ symbols and the second one to load
crashes.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import DelegateError, InterpreterError, ModelFileError, RuntimeMissingError, TensorError
from .delegates import Delegate
from .flatbuffer import read_model
from .runtime import RUNTIMES, Runtime, RuntimeName

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, type and quantization of one input or output.

    Attributes:
        shape: Sizes; -1 where the file leaves one open.
        dtype: Element type.
        scale: Quantization scale of an integer tensor, 0.0 when it is not quantized.
        zero_point: Quantized value that stands for 0.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class SignatureSpec:
    """The inputs and outputs of one signature, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class Binding:
    """The tensors of a file's only signature, in place: no copy goes in, none comes out.

    Attributes:
        inputs: A function for each input, in the file's order, that gives the runtime's own array of it.
        outputs: The same for the outputs.

    An array that such a function gave must not be kept: the runtime refuses to run while there is one.
    """

    def __init__(self, engine: Any, spec: SignatureSpec, indexes: Mapping[str, int], *, resets: bool) -> None:
        self._invoke = engine.invoke
        self._reset = engine.reset_all_variables if resets else None
        self.inputs: tuple[Callable[[], Array], ...] = tuple(
            engine.tensor(indexes[name]) for name in spec.inputs
        )
        self.outputs: tuple[Callable[[], Array], ...] = tuple(
            engine.tensor(indexes[name]) for name in spec.outputs
        )

    def run(self) -> None:
        """Runs the model on what the inputs hold.

        Raises:
            InterpreterError: The runtime refused.
        """
        try:
            if self._reset is not None:
                self._reset()
            self._invoke()
        except (RuntimeError, ValueError) as error:
            raise InterpreterError(f"The runtime could not run the model: {error}.") from error


class Interpreter:
    """A loaded model file whose signatures can be run. Use :func:`load` to make one.

    A file without signatures is run through its first subgraph, under the signature name ``""``, with the
    tensors' own names. Not safe for two threads at once: a runtime keeps its tensors in one arena.

    Attributes:
        runtime: Name and version of the runtime.
    """

    def __init__(self, engine: Any, runtime: Runtime, source: str | Path | bytes) -> None:
        self.runtime = runtime
        self._engine: Any = engine
        self._runners: dict[str, Any] = {}
        self._specs = _read_signatures(engine)
        # A fused LSTM keeps its state in variable tensors from one run to the next.
        self._resets_state = "train" not in self._specs and _has_variables(source)
        self._has_run = False

    def signatures(self) -> dict[str, SignatureSpec]:
        """The signatures of the file by name."""
        return dict(self._specs)

    def run(self, signature: str, inputs: Mapping[str, Array | np.generic]) -> dict[str, Array]:
        """Runs one signature once.

        Runs of a file for inference are independent: the state of a fused LSTM starts at zero in each.

        Args:
            signature: Its name; ``""`` for a file without signatures.
            inputs: One array per input, of exactly the shape and type that the file declares.

        Returns:
            A copy of every output by name.

        Raises:
            TensorError: A signature, an input, a shape or a type is not what the file declares.
            InterpreterError: The runtime refused to run the model.
        """
        spec = self._specs.get(signature)
        if spec is None:
            raise TensorError(
                f"Expected one of the signatures {sorted(self._specs)}, received {signature!r}.",
                name=signature,
            )
        arrays = _checked_inputs(signature, spec, inputs)
        try:
            if self._resets_state and self._has_run:
                self._engine.reset_all_variables()
            self._has_run = True
            if signature:
                return self._run_signature(signature, arrays)
            return self._run_first_subgraph(arrays)
        except (RuntimeError, ValueError) as error:
            raise InterpreterError(
                f"{self.runtime} could not run the signature {signature!r}: {error}.", signature=signature
            ) from error

    def bind(self) -> Binding | None:
        """The tensors of the file's only signature in place; None where they cannot be had.

        They can if the file has one signature of fixed sizes, and that is its first subgraph.
        """
        if len(self._specs) != 1:
            return None
        ((signature, spec),) = self._specs.items()
        if any(-1 in tensor.shape for tensor in (*spec.inputs.values(), *spec.outputs.values())):
            return None
        indexes = _indexes(self._engine, signature)
        if len(indexes) != len(spec.inputs) + len(spec.outputs):
            return None
        self._engine.allocate_tensors()
        return Binding(self._engine, spec, indexes, resets=self._resets_state)

    def close(self) -> None:
        """Frees the model's memory. The object cannot be used afterwards."""
        self._runners.clear()
        self._engine = None
        self._specs = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run_signature(self, signature: str, arrays: dict[str, Array]) -> dict[str, Array]:
        runner = self._runners.get(signature)
        if runner is None:
            runner = self._runners[signature] = self._engine.get_signature_runner(signature)
            runner._interpreter_wrapper = _Resizing(runner._interpreter_wrapper)
        outputs: dict[str, Array] = runner(**arrays)
        return outputs

    def _run_first_subgraph(self, arrays: dict[str, Array]) -> dict[str, Array]:
        engine = self._engine
        details = {detail["name"]: detail for detail in engine.get_input_details()}
        resized = [name for name, array in arrays.items() if tuple(details[name]["shape"]) != array.shape]
        for name in resized:
            engine.resize_tensor_input(details[name]["index"], arrays[name].shape)
        if resized or "" not in self._runners:
            engine.allocate_tensors()
            self._runners[""] = engine
        for name, array in arrays.items():
            engine.set_tensor(details[name]["index"], array)
        engine.invoke()
        return {detail["name"]: engine.get_tensor(detail["index"]) for detail in engine.get_output_details()}


class _Resizing:
    """What a signature's runner calls, but for resizing scalars, which have nothing to resize.

    LiteRT up to 2.3 for 64-bit ARM ends the process there: it fills -4 bytes of memory.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def ResizeInputTensor(self, index: int, shape: Array, *others: Any) -> None:  # noqa: N802
        if shape.size:
            self._wrapper.ResizeInputTensor(index, shape, *others)


def load(
    source: str | Path | bytes,
    *,
    runtime: RuntimeName = "auto",
    num_threads: int = 1,
    reference_kernels: bool = False,
    delegate: Delegate | None = None,
) -> Interpreter:
    """Loads a ``.tflite`` file.

    Args:
        source: Path of the file (it is mapped, not copied) or its bytes.
        runtime: ``auto`` takes tflite-runtime where it is installed and TensorFlow is not loaded in this
            process, else LiteRT.
        num_threads: Threads of the CPU kernels. On tflite-runtime 2.14 two are often slower than one.
        reference_kernels: Use the slow kernels that define the results of integer operators, without XNNPACK:
            the ones to compare numbers with.
        delegate: The library that runs what it can on an accelerator; the CPU does the rest.

    Raises:
        DelegateError: The delegate's library is not there, or refuses.
        RuntimeMissingError: The runtime is not installed, or must not be loaded beside TensorFlow.
        ModelFileError: The file is missing or is not a model that this runtime reads.
    """
    name, module = _import_runtime(runtime)
    version = _version(name)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ModelFileError(f"Expected a .tflite file, {str(source)!r} does not exist.", path=str(source))
    content: dict[str, Any] = (
        {"model_content": source} if isinstance(source, bytes) else {"model_path": str(source)}
    )
    if reference_kernels:
        content["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_REF
    if delegate is not None:
        content["experimental_delegates"] = [_load_delegate(module, delegate)]
    try:
        engine = module.Interpreter(**content, num_threads=num_threads)
        if name == "tflite" and engine.get_signature_list():
            # 2.14 gives a signature the XNNPACK delegate only if the whole model was allocated before it.
            engine.allocate_tensors()
        return Interpreter(engine, Runtime(name, version), source)
    except (RuntimeError, ValueError) as error:
        shown = "the given bytes" if isinstance(source, bytes) else repr(str(source))
        raise ModelFileError(f"{name} {version} cannot load {shown}: {error}.") from error


def _load_delegate(module: Any, delegate: Delegate) -> Any:
    """The first of a delegate's libraries that this machine has."""
    reasons = []
    for library in delegate.libraries:
        try:
            # The runtimes' own class for it stumbles in its destructor over a library that is not there.
            _ = ctypes.CDLL(library).tflite_plugin_create_delegate
            return module.load_delegate(library, dict(delegate.options))
        except (OSError, ValueError, RuntimeError, AttributeError) as error:
            reasons.append(f"{library}: {error or type(error).__name__}")
    raise DelegateError(f"Expected a delegate for {delegate.name}, received: {'; '.join(reasons)}.")


def prepare(runtime: RuntimeName) -> None:
    """Imports a runtime, so that what follows measures a model alone.

    Raises:
        RuntimeMissingError: It is not installed, or must not be loaded beside TensorFlow.
    """
    _import_runtime(runtime)


def _import_runtime(runtime: RuntimeName) -> tuple[str, Any]:
    beside_tensorflow = "tensorflow" in sys.modules
    if runtime == "tflite" and beside_tensorflow:
        raise RuntimeMissingError(
            "tflite-runtime cannot be loaded in a process that has loaded TensorFlow.",
            remedy='Pass runtime="litert", or run this in a process of its own.',
        )
    candidates = ["litert"] if beside_tensorflow else ["tflite", "litert"]
    names = candidates if runtime == "auto" else [runtime]
    for name in names:
        module = RUNTIMES[name][0]
        try:
            return name, importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != module.split(".")[0]:
                raise
    expected = " or ".join(RUNTIMES[name][1] for name in names)
    raise RuntimeMissingError(f"Expected {expected} to be installed, found neither a wheel nor a module.")


def _version(name: str) -> str:
    """What the runtime says it is; else what its distribution says, for which far more has to be loaded."""
    module, distribution = RUNTIMES[name]
    version = getattr(sys.modules[module.split(".")[0]], "__version__", None)
    if version is None:
        import importlib.metadata

        version = importlib.metadata.version(distribution)
    return str(version)


def _has_variables(source: str | Path | bytes) -> bool:
    """Whether any tensor of the file outlives a run: field 5 of a tensor in TFLite's schema."""
    graphs = read_model(source).tables(2)
    return any(tensor.scalar(5, "b") for graph in graphs for tensor in graph.tables(0))


def _indexes(engine: Any, signature: str) -> dict[str, int]:
    """The first subgraph's tensors by their names in the signature; none where that is another subgraph."""
    details = [*engine.get_input_details(), *engine.get_output_details()]
    first = {detail["name"]: detail["index"] for detail in details}
    if not signature:
        return first
    runner = engine.get_signature_runner(signature)
    named = runner.get_input_details() | runner.get_output_details()
    indexes = {name: detail["index"] for name, detail in named.items()}
    return indexes if sorted(indexes.values()) == sorted(first.values()) else {}


def _read_signatures(engine: Any) -> dict[str, SignatureSpec]:
    names = list(engine.get_signature_list())
    if not names:
        return {"": SignatureSpec(_specs(engine.get_input_details()), _specs(engine.get_output_details()))}
    specs = {}
    for name in names:
        runner = engine.get_signature_runner(name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        specs[name] = SignatureSpec(
            {key: _spec(detail) for key, detail in inputs.items()},
            {key: _spec(detail) for key, detail in outputs.items()},
        )
    return specs


def _specs(details: list[dict[str, Any]]) -> dict[str, TensorSpec]:
    return {detail["name"]: _spec(detail) for detail in details}


def _spec(detail: dict[str, Any]) -> TensorSpec:
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        tuple(int(size) for size in shape), np.dtype(detail["dtype"]), float(scale), int(zero_point)
    )


def _checked_inputs(
    signature: str, spec: SignatureSpec, inputs: Mapping[str, Array | np.generic]
) -> dict[str, Array]:
    missing, unknown = sorted(spec.inputs.keys() - inputs.keys()), sorted(inputs.keys() - spec.inputs.keys())
    if missing or unknown:
        raise TensorError(
            f"The signature {signature!r} expects the inputs {sorted(spec.inputs)}; missing {missing}, "
            f"unknown {unknown}.",
            name=signature,
        )
    arrays = {}
    for name, value in inputs.items():
        array, expected = np.asarray(value), spec.inputs[name]
        if array.dtype != expected.dtype or not _fits(array.shape, expected.shape):
            raise TensorError(
                f"The input {name!r} of {signature!r} expects {expected}, received "
                f"{array.dtype}{list(array.shape)}.",
                name=name,
            )
        arrays[name] = array
    return arrays


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, s) for s, e in zip(shape, expected, strict=True))
