"""Builds a release: the folder with a model's files for its targets and their manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import CompilerError, ReleaseBuildError
from ..hardware import compilers, interpreter
from ..hardware.compilation import Compilation
from ..hardware.targets import Target
from ..hardware.targets import load as load_target
from ..protocol import manifest as manifests
from ..protocol.manifest import Kind, Manifest, ModelFile, Preprocessing, Signature, Tensor
from ..protocol.signatures import SigningKey, sign_manifest
from . import fused_file, release_folder
from .comparison import Comparison, compare
from .converter import Converter, convert
from .foreign_model import file_of
from .golden import FILE, write_golden
from .recipes import Recipe
from .recipes import get as get_recipe

Array = NDArray[Any]

_TOOLS = ("hedgerow", "tensorflow", "keras", "numpy", "ai-edge-litert", "ai-edge-quantizer", "ethos-u-vela")


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A release that is complete on the disk.

    Attributes:
        folder: `<name>-<version>`, with every file and `manifest.json`.
        manifest: What `manifest.json` says.
        files: Path of each file: `trainable`, the recipes' names, `golden`, and the targets' names for
            compiled ones.
        comparison: Keras against the files on the held-out examples; None without any.
        compiled: What its compiler says, for each target that has a compiled file.
    """

    folder: Path
    manifest: Manifest
    files: dict[str, Path]
    comparison: Comparison | None
    compiled: dict[str, Compilation]


def build_release(
    folder: str | Path,
    *,
    name: str,
    version: str,
    model: keras.Model,
    trainable: str | Path | bytes | None = None,
    calibration: Array | Sequence[Array] | None = None,
    test: tuple[Array | Sequence[Array], Array] | None = None,
    labels: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    recipes: Sequence[str | Recipe] = ("int8",),
    targets: Sequence[str] = (),
    minimum_agent: str = "0.1.0",
    key: SigningKey | None = None,
    converter: Converter | None = None,
    converted: Mapping[str, bytes] | None = None,
    comparison: Comparison | None = None,
    compile_from: Mapping[str, str] | None = None,
    on_built: Callable[[Path, Mapping[str, Path], Mapping[str, Compilation]], None] | None = None,
) -> Release:
    """Converts, measures, compiles and writes a release, all of it or nothing.

    The folder `<name>-<version>` appears under `folder` by one rename when it is complete and on the disk.

    Args:
        folder: Where releases live.
        name: Name of the model.
        version: `MAJOR.MINOR.PATCH`, higher than every release of that name in `folder`.
        model: The Keras model that every file is made from.
        trainable: The trainable file of the same weights, as a path or bytes.
        calibration: Examples for the int8 recipes; none of them may be in `test`.
        test: Held-out examples and their answers, for the metrics of each file.
        labels: Name of each class.
        preprocessing: What makes a raw example the model's input.
        recipes: What to convert to.
        targets: What to compile for. A target without a compiler takes the files of the kinds that it reads;
            so does one whose compiler is missing or refuses the file, unless it runs compiled files alone.
        minimum_agent: The oldest agent that can run it.
        key: Signs the manifest.
        converter: A running converter, to save the start of a process.
        converted: Files that are converted already, by their recipes' names.
        comparison: How the files answer the test, if that has been measured.
        compile_from: Name of the recipe whose file a target's compiler takes; int8 by default.
        on_built: Called before the release gets its name, with its folder to be, the files by kind and what
            compilers made by target; what it raises leaves no release.

    Raises:
        ReleaseBuildError: The version is not newer than what is there, the test examples are calibration
            examples, or the disk failed.
        QuantizationError: A recipe cannot convert the model.
        CompilerError: A target's compiler failed.
    """
    destination = release_folder.destination_of(Path(folder), name, version)
    chosen_targets = [load_target(target) for target in targets]
    chosen_recipes = _recipes(recipes, chosen_targets, compile_from or {})
    _check_disjoint(calibration, test)
    with release_folder.aside(destination) as aside:
        files = {"trainable": aside / "trainable.tflite"} if trainable is not None else {}
        if trainable is not None:
            release_folder.write(files["trainable"], trainable)
        for recipe in chosen_recipes:
            files[recipe.name] = aside / f"{recipe.name}.tflite"
            data = (converted or {}).get(recipe.name)
            if data is None:
                data = convert(model, recipe, calibration=calibration, converter=converter)
            release_folder.write(files[recipe.name], data)
        if comparison is None and test is not None:
            comparison = compare(model, _inference(files), *test)
        golden = _golden(aside, _inference(files), calibration, test)
        compiled = {}
        for target in chosen_targets:
            source = files.get((compile_from or {}).get(target.name, "int8"))
            if source is not None and (report := _compile(target, source, aside)) is not None:
                compiled[target.name] = report
        entries = [_entry(path, kind, chosen_targets, comparison) for kind, path in files.items()]
        entries += [
            _compiled_entry(aside / f"{target}.tflite", target, report) for target, report in compiled.items()
        ]
        if golden is not None:
            entries.append(_plain_entry(golden, "golden"))
        manifest = Manifest(
            name=name,
            version=version,
            weights_digest=manifests.weights_digest(_weights(model)),
            files=tuple(entries),
            labels=tuple(labels),
            preprocessing=preprocessing or Preprocessing(),
            minimum_agent=minimum_agent,
            tools=_versions(),
        )
        release_folder.write(
            aside / release_folder.MANIFEST,
            sign_manifest(manifest, key) if key else manifests.encode(manifest),
        )
        if on_built is not None:
            on_built(destination, files | ({"golden": golden} if golden is not None else {}), compiled)
    placed = {kind: destination / path.name for kind, path in files.items()}
    reports = {
        target: dataclasses.replace(report, output=destination / report.output.name)
        for target, report in compiled.items()
    }
    if golden is not None:
        placed["golden"] = destination / golden.name
    placed |= {target: report.output for target, report in reports.items()}
    return Release(destination, manifest, placed, comparison, reports)


def _recipes(
    names: Sequence[str | Recipe], targets: Sequence[Target], compile_from: Mapping[str, str]
) -> list[Recipe]:
    """The recipes asked for, and those that compilers need."""
    chosen = {recipe.name: recipe for recipe in map(get_recipe, names)}
    for target in targets:
        if target.compiled:
            name = compile_from.get(target.name, "int8")
            chosen.setdefault(name, get_recipe(name))
    return list(chosen.values())


def _weights(model: keras.Model) -> dict[str, Array]:
    """Every weight of a model; of a file that stands for one, its bytes."""
    file = file_of(model)
    if file is not None:
        return {file.file.name: np.frombuffer(file.file.read_bytes(), np.uint8)}
    return {weight.path: weight.numpy() for weight in model.weights}


def _check_disjoint(
    calibration: Array | Sequence[Array] | None, test: tuple[Array | Sequence[Array], Array] | None
) -> None:
    if calibration is None or test is None:
        return
    calibrated, tested = (_digests(examples) for examples in (calibration, test[0]))
    if shared := len(calibrated & tested):
        raise ReleaseBuildError(
            f"Expected test examples that calibration has not seen, received {shared} that are in both.",
            remedy="Split the data before you pass it on.",
        )


def _digests(examples: Array | Sequence[Array]) -> set[bytes]:
    first = examples if hasattr(examples, "shape") else examples[0]
    return {hashlib.sha256(np.ascontiguousarray(one, np.float32).tobytes()).digest() for one in first}


def _inference(files: Mapping[str, Path]) -> dict[str, Path]:
    return {kind: path for kind, path in files.items() if kind != "trainable"}


def _golden(
    aside: Path,
    files: Mapping[str, Path],
    calibration: Array | Sequence[Array] | None,
    test: tuple[Array | Sequence[Array], Array] | None,
) -> Path | None:
    """Writes golden vectors for files with one input; None without examples, files or with several inputs."""
    examples = test[0] if test is not None else calibration
    if examples is None or not files or not hasattr(examples, "shape"):
        return None
    path = aside / FILE
    write_golden(path, files, np.asarray(examples))
    return path


def _compile(target: Target, source: Path, aside: Path) -> Compilation | None:
    """The file as a target's compiler makes it; None for a target that does not need one and gets none.

    It compiles in a folder of its own: a full disk is then no failure of the compiler.
    """
    if target.accelerator is None or target.accelerator.compiler is None:
        return None
    if not target.compiled and compilers.missing(target):
        return None
    output = aside / f"{target.name}.tflite"
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = compilers.compile_for(target, source, folder)
        except CompilerError:
            if target.compiled:
                raise
            return None
        release_folder.write(output, report.output)
    return dataclasses.replace(report, output=output)


def _entry(path: Path, kind: str, targets: Sequence[Target], comparison: Comparison | None) -> ModelFile:
    data = path.read_bytes()
    measured = comparison.files[kind].metrics if comparison is not None and kind in comparison.files else {}
    return ModelFile(
        name=path.name,
        kind=cast("Kind", kind if kind == "trainable" else get_recipe(kind).kind),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        targets=tuple(target.name for target in targets if _reads(target, kind)),
        signatures=_signatures(data),
        metrics=measured,
        stateful=kind != "trainable" and fused_file.has_fused_lstm(data),
    )


def _reads(target: Target, kind: str) -> bool:
    """Whether a target runs a file as it is, without its compiler."""
    if kind == "trainable":
        return kind in target.kinds
    return not target.compiled and get_recipe(kind).runs_on(target)


def _plain_entry(
    path: Path, kind: Kind, *, targets: tuple[str, ...] = (), metrics: dict[str, float] | None = None
) -> ModelFile:
    """The entry of a file that no interpreter here reads."""
    data = path.read_bytes()
    return ModelFile(
        name=path.name,
        kind=kind,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        targets=targets,
        metrics=metrics or {},
    )


def _compiled_entry(path: Path, target: str, report: Compilation) -> ModelFile:
    said = {
        "npu_percent": report.accelerated_percent,
        "cycles": report.cycles,
        "sram_kib": report.activations_kib,
        "flash_kib": report.weights_kib,
    }
    metrics = {name: float(value) for name, value in said.items() if value is not None}
    return _plain_entry(path, "compiled", targets=(target,), metrics=metrics)


def _signatures(data: bytes) -> dict[str, Signature]:
    with interpreter.load(data, runtime="litert") as loaded:
        return {
            name: Signature(_tensors(spec.inputs), _tensors(spec.outputs))
            for name, spec in loaded.signatures().items()
        }


def _tensors(specs: Mapping[str, interpreter.TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, spec.shape, spec.dtype.name, spec.scale, spec.zero_point) for name, spec in specs.items()
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
