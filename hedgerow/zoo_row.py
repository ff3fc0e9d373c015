"""What a verification found out about one system of the zoo."""

from __future__ import annotations

import msgspec


class Int8(msgspec.Struct, frozen=True, kw_only=True):
    """A system's int8 file.

    Attributes:
        value: The measure of the file on its reference kernels.
        reference: The measure of Keras on the same examples.
        size_bytes: Of the file.
        cycles: Vela's estimate for one inference on an Ethos-U55 with 128 multipliers; 0 if it could not
        compile it.
        npu_percent: Share of the operators on the NPU.
        remark: What stays off the NPU, or why it could not be compiled.
    """

    value: float
    reference: float
    size_bytes: int
    cycles: int = 0
    npu_percent: float = 0.0
    remark: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system: everything that `docs/zoo.md` says about it. Tuples hold a number per seed.

    Attributes:
        name: Of the system.
        title: One line for people.
        data: Its data set, in a few words.
        parameters: How many weights it has.
        measure: What the numbers are.
        higher_is_better: Whether more of it is better.
        percent: Whether it is a share.
        baseline_name: What it has to beat.
        devices: How many there are.
        rounds: Rounds of federated averaging.
        central: After training on the central examples alone.
        baseline: The baseline, fitted on the same examples.
        federated: After the rounds, which begin with the central weights.
        everything: After training on all examples in one place.
        int8: Its int8 file; None if it has none.
        not_int8: Why not.
        trainable_bytes: Size of the trainable file.
        step_ms: Median of a training step of one batch on the device runtime.
        batch_size: Of that step.
        peak_mib: The most memory of the process that trained.
        runtime: The device runtime.
        parity: The largest difference between an update of one step there and in Keras, as a share of the
        largest.
        quick: Whether it was run on a few examples only, so that its measures mean nothing.
        seconds: What the verification took.
        failure: What went wrong; the numbers after it are missing.
    """

    name: str
    title: str
    data: str
    parameters: int = 0
    measure: str = ""
    higher_is_better: bool = True
    percent: bool = True
    baseline_name: str = ""
    devices: int = 0
    rounds: int = 0
    central: tuple[float, ...] = ()
    baseline: tuple[float, ...] = ()
    federated: tuple[float, ...] = ()
    everything: tuple[float, ...] = ()
    int8: Int8 | None = None
    not_int8: str = ""
    trainable_bytes: int = 0
    step_ms: float = 0.0
    batch_size: int = 0
    peak_mib: float = 0.0
    runtime: str = ""
    parity: float | None = None
    quick: bool = False
    seconds: float = 0.0
    failure: str = ""
