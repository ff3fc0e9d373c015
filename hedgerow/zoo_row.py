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
        parity: The largest difference between a weight's change in one step there and in Keras, as a share of
            the largest change.
        rounding: The same between Keras in 32 and in 64 bits; None where there is no 64-bit form.
        seeds: Of the runs.
        quick: Whether it was run on a few examples only, so that its measures mean nothing.
        seconds: What the verification took.
        failure: Which stages went wrong, and how; what they measure is missing.
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
    rounding: float | None = None
    seeds: tuple[int, ...] = ()
    quick: bool = False
    seconds: float = 0.0
    failure: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One call of `hedgerow zoo verify`.

    Attributes:
        systems: Whose rows come from it.
        seconds: From its start to its last row; the time of rows that a later run replaced counts too.
        jobs: How many systems were verified side by side.
        processors: Of the machine.
    """

    systems: tuple[str, ...]
    seconds: float
    jobs: int
    processors: int


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """`zoo.json`: rows, and the runs that made them.

    Attributes:
        rows: In the order of the zoo.
        runs: The earliest first; none whose rows were all replaced.
    """

    rows: tuple[Row, ...] = ()
    runs: tuple[Run, ...] = ()

    def with_row(self, row: Row, run: Run, order: tuple[str, ...]) -> Verified:
        """With one more row of a run, which is the last one here if it has a row already.

        Args:
            row: Of a system; the older row of it goes.
            run: How far the run is; `systems` without this row's.
            order: Of all systems.
        """
        known = {one.name: one for one in self.rows} | {row.name: row}
        earlier = self.runs[:-1] if run.systems and self.runs else self.runs
        others = (
            msgspec.structs.replace(one, systems=tuple(name for name in one.systems if name != row.name))
            for one in earlier
        )
        run = msgspec.structs.replace(run, systems=(*run.systems, row.name))
        return Verified(
            rows=tuple(known[name] for name in order if name in known),
            runs=(*(one for one in others if one.systems), run),
        )
