"""A target: the chip or runtime that a release is built for."""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from ...errors import TargetError
from .. import operators

Compiler = Literal["vela", "xcore-opt", "edgetpu_compiler", "litert-aot"]
VerifyingRuntime = Literal["tflite", "litert", "micro", "xcore"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KINDS = ("int8", "float16", "float32", "dynamic", "int16x8", "int4", "mixed", "trainable", "compiled")


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model may take there, in KiB; None where the target sets no limit of its own.

    Attributes:
        weights_kib: For the model file, or the flash that it lies in.
        activations_kib: For the tensors of one inference: RAM, SRAM or the tensor arena.
    """

    weights_kib: int | None = None
    activations_kib: int | None = None


class Constraint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator must be like for a processor to run it.

    Attributes:
        dtypes: Types of its first input that is no constant; empty for every type.
        constant: Which inputs must be constants, by their place.
        options: Options of the operator that must have this value: `{ activation = 0 }` for none fused.
        dilation: Whether its kernel may be dilated.
        broadcast: Whether its inputs may have different shapes.
        ranks: The least and the most sizes that its first input may have; empty for any.
        single_batch: Whether the first size of its input must be 1.
        axes: Along which axes it may reduce or pad; empty for all.
        largest: The most numbers of its first input; 0 for no limit.
        largest_stride: The largest stride; 0 for no limit.
        note: What else its maker says, which is not checked here.
    """

    dtypes: tuple[str, ...] = ()
    constant: tuple[int, ...] = ()
    options: dict[str, int] = {}
    dilation: bool = True
    broadcast: bool = True
    ranks: tuple[int, ...] = ()
    single_batch: bool = False
    axes: tuple[int, ...] = ()
    largest: int = 0
    largest_stride: int = 0
    note: str = ""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operators a processor runs.

    Attributes:
        dtypes: Types of the tensors between operators; empty for every type.
        excluded_dtypes: Types that not even weights may have.
        operators: TFLite's names; empty for every built-in operator.
        excluded: Names that `operators` would let through.
        custom: Custom operators that it has, such as that of its own compiler; `XC_*` for all that begin so.
        versions: The newest version of an operator's kernel, where the newest is not supported.
        constraints: What operators must be like, by name.
        static_shapes: Whether every size but the batch must be known.
        large_dimensions: At most so many sizes of a tensor may be above 1; 0 for no limit.
        prefix_only: Whether everything after the first operator that it cannot run goes to the CPU too.
    """

    dtypes: tuple[str, ...] = ()
    excluded_dtypes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()
    versions: dict[str, int] = {}
    constraints: dict[str, Constraint] = {}
    static_shapes: bool = False
    large_dimensions: int = 0
    prefix_only: bool = False


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a target that runs operators instead of its CPU.

    Attributes:
        name: Its maker's name for it.
        compiler: What makes a file for it, or none where a delegate reads the file as it is.
        configuration: The compiler's word for this configuration.
        rules: What it runs; where the compiler is installed, its own word counts instead.
    """

    name: str
    compiler: Compiler | None = None
    configuration: str = ""
    rules: Rules = Rules()


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chip or runtime that a release is built for, as its TOML file says.

    Attributes:
        name: Lower-case letters, digits and hyphens; also the name of the file.
        title: One line for people.
        runtimes: What runs the file there, with the versions it was written for: `tflite-runtime == 2.14`.
        kinds: Kinds of file that run there, the best first.
        verify: The runtimes on this machine that stand for it: those whose kernels it uses, or that compute
            what its accelerator must.
        cpu: What the CPU runs of what the accelerator leaves, or all of it.
        memory: Limits.
        accelerator: None where the CPU does everything.
        notes: What a user should know, a sentence each.
        sources: Where the rules were taken from.
    """

    name: str
    title: str
    runtimes: tuple[str, ...]
    kinds: tuple[str, ...]
    verify: tuple[VerifyingRuntime, ...] = ()
    cpu: Rules = Rules()
    memory: Memory = Memory()
    accelerator: Accelerator | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise TargetError(
                f"Expected a target's name of [a-z0-9-], received {self.name!r}.", name=self.name
            )
        if not self.runtimes or not self.kinds:
            raise TargetError(f"Expected runtimes and kinds in the target {self.name!r}, received none.")
        unknown = sorted(set(self.kinds) - set(_KINDS))
        if unknown:
            raise TargetError(
                f"Expected kinds out of {', '.join(_KINDS)} in the target {self.name!r}, received {unknown}."
            )
        for rules in (self.cpu, *([self.accelerator.rules] if self.accelerator else [])):
            _check_operators(rules, self.name)

    @property
    def compiled(self) -> bool:
        """Whether a release holds a file of its own for it, made by its compiler."""
        return "compiled" in self.kinds


def _check_operators(rules: Rules, target: str) -> None:
    named = {*rules.operators, *rules.excluded, *rules.versions, *rules.constraints}
    unknown = sorted(named - operators.NAMES)
    if unknown:
        raise TargetError(
            f"Expected TFLite's names of operators, such as CONV_2D, in the target {target!r}; received "
            f"{', '.join(unknown)}."
        )


@functools.cache
def names() -> tuple[str, ...]:
    """Every target's name, sorted."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def load(target: str) -> Target:
    """Reads a target.

    Args:
        target: Its name, or the path of a description of your own, which ends in `.toml`.

    Raises:
        TargetError: There is none of that name, or its file is missing or wrong.
    """
    if target.endswith(".toml"):
        return _read_file(Path(target))
    return _read_named(target)


@functools.cache
def _read_named(name: str) -> Target:
    if name not in names():
        raise TargetError(
            f"Expected a target out of {', '.join(names())}, or the path of a .toml file; received {name!r}.",
            name=name,
        )
    return _decoded((resources.files(__package__) / f"{name}.toml").read_bytes(), f"{name}.toml", name)


def _read_file(path: Path) -> Target:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TargetError(
            f"Cannot read the target {str(path)!r}: {error.strerror}.", remedy="Check the path."
        ) from error
    return _decoded(data, str(path), path.stem)


def _decoded(data: bytes, shown: str, name: str) -> Target:
    remedy = "Correct the file; docs/targets.md describes every field, and the built-in ones are examples."
    try:
        target = msgspec.toml.decode(data, type=Target)
    except TargetError as error:
        raise TargetError(f"{shown}: {error.args[0]}", remedy=remedy) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        words = str(error).rstrip(".").replace("Object ", "the table ")
        raise TargetError(f"The target {shown} is wrong: {words}.", remedy=remedy, name=name) from error
    if target.name != name:
        raise TargetError(f"Expected the name {name!r} in {shown}, received {target.name!r}.", remedy=remedy)
    return target
