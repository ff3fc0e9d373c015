"""A target: the chip or runtime that a release is built for."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Literal

import msgspec

from ...errors import TargetError

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model may take there, in KiB; None where the target sets no limit of its own.

    Attributes:
        weights_kib: For the model file, or the flash that it lies in.
        activations_kib: For the tensors of one inference: RAM, SRAM or the tensor arena.
    """

    weights_kib: int | None = None
    activations_kib: int | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operators a processor runs.

    Attributes:
        dtypes: Types of the tensors between operators; empty for every type.
        excluded_dtypes: Types that not even weights may have.
        operators: TFLite's names; empty for every built-in operator.
        excluded: Names that `operators` would let through.
        versions: The newest version of an operator's kernel, where the newest is not supported.
        static_shapes: Whether every size must be known.
        large_dimensions: At most so many sizes of a tensor may be above 1; 0 for no limit.
        prefix_only: Whether everything after the first operator that it cannot run goes to the CPU too.
    """

    dtypes: tuple[str, ...] = ()
    excluded_dtypes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    versions: dict[str, int] = {}
    static_shapes: bool = False
    large_dimensions: int = 0
    prefix_only: bool = False


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a target that runs operators instead of its CPU.

    Attributes:
        name: Its maker's name for it.
        compiler: What makes a file for it: `vela`, or none where a delegate reads the file as it is.
        configuration: The compiler's word for this configuration.
        rules: What it runs; where the compiler is installed, its own word counts instead.
    """

    name: str
    compiler: Literal["vela"] | None = None
    configuration: str = ""
    rules: Rules = Rules()


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chip or runtime that a release is built for, as its TOML file says.

    Attributes:
        name: Lower-case letters, digits and hyphens; also the name of the file.
        title: One line for people.
        runtimes: What runs the file there, with the versions it was written for: `tflite-runtime == 2.14`.
        kinds: Kinds of file that run there, the best first.
        verify: The runtime on this machine whose kernels are the same: `tflite`, `litert`, or none.
        cpu: What the CPU runs of what the accelerator leaves, or all of it.
        memory: Limits.
        accelerator: None where the CPU does everything.
        notes: What a user should know, a sentence each.
    """

    name: str
    title: str
    runtimes: tuple[str, ...]
    kinds: tuple[str, ...]
    verify: Literal["tflite", "litert"] | None = None
    cpu: Rules = Rules()
    memory: Memory = Memory()
    accelerator: Accelerator | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise TargetError(
                f"Expected a target's name of [a-z0-9-], received {self.name!r}.", name=self.name
            )
        if not self.runtimes or not self.kinds:
            raise TargetError(f"Expected runtimes and kinds in the target {self.name!r}, received none.")

    @property
    def compiled(self) -> bool:
        """Whether a compiler makes its file."""
        return self.accelerator is not None and self.accelerator.compiler is not None


@functools.cache
def names() -> tuple[str, ...]:
    """Every target's name, sorted."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


@functools.cache
def load(name: str) -> Target:
    """Reads a target.

    Raises:
        TargetError: There is none of that name, or its file is wrong.
    """
    if name not in names():
        raise TargetError(f"Expected a target out of {', '.join(names())}; received {name!r}.", name=name)
    data = (resources.files(__package__) / f"{name}.toml").read_bytes()
    try:
        target = msgspec.toml.decode(data, type=Target)
    except msgspec.DecodeError as error:
        raise TargetError(f"The description of the target {name!r} is wrong: {error}.", name=name) from error
    if target.name != name:
        raise TargetError(f"Expected the name {name!r} in {name}.toml, received {target.name!r}.", name=name)
    return target
