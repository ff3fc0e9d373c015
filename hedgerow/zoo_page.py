"""`docs/zoo.md`: what the verifications found out, as tables."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec

from .errors import ZooError
from .zoo_row import Row, Verified

_HEAD = """# The zoo

Written by `hedgerow zoo verify`, never by hand; the numbers behind it are in `zoo.json` beside it. Every
system is a Keras model of less than 120 lines in `models/zoo/`, with real data that a package brings, and
went the whole way on one machine: trained centrally on a small part of the data, quantized, compiled for an
Ethos-U55 with 128 multipliers, exported as a file that trains, and refined on simulated devices by federated
averaging on the device runtime, in a process without TensorFlow.

A number with ± is the mean of the seeds and half their range. *Central* is the model that was trained on the
central examples alone, where the rounds begin; *all in one place* was trained on the central and all devices'
examples together, with about twice the steps of central training, or more where that costs little;
*baseline* was fitted on what the central model saw.
Everything was measured on the same held-out examples. What is asked of digits-convnet (97 %) and of
speaker-lstm (96 %) is asked of *all in one place*, which is also what `hedgerow train` makes of them.
"""


def render(verified: Verified) -> str:
    """The page."""
    rows = verified.rows
    parts = [_HEAD]
    if any(row.quick for row in rows):
        parts.append(
            "**Rows marked *quick* were run on a few examples: that they run is all their numbers say.**\n"
        )
    parts += [
        "## What federated rounds gain\n",
        _table(
            ("system", "measure", "baseline", "central", "after the rounds", "all in one place", "rounds"),
            [_gains(row) for row in rows],
        ),
        "## Small and fast\n",
        _table(
            ("system", "parameters", "int8", "drop", "int8 kB", "Ethos-U55 cycles", "on the NPU", "remark"),
            [_sizes(row) for row in rows],
        ),
        "The drop is against Keras on the same held-out examples, in the measure's unit; below zero int8 is "
        "better.\n",
        "## Training on a device\n",
        _table(
            ("system", "file kB", "step ms", "batch", "peak MiB", "runtime", "parity of a step", "rounding"),
            [_training(row) for row in rows],
        ),
        "The peak is that of the whole process. Parity is the largest difference between a weight's change "
        "in one step of gradient descent there and in Keras, as a share of the largest change; rounding is "
        "the same between Keras in 32 and in 64 bits, where the model has a 64-bit form. In a deep network "
        "the first can be a thousand times the second: an activation within rounding of zero is then on the "
        "other side of a ReLU's kink.\n",
        "## What they are\n",
        _table(("system", "what it does", "data"), [(row.name, row.title, row.data) for row in rows]),
    ]
    parts.append(_took(verified))
    return "\n".join(parts)


def read(path: Path) -> Verified:
    """What is in `zoo.json` at `path`; nothing if there is no such file.

    Raises:
        ZooError: It is something else.
    """
    if not path.is_file():
        return Verified()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verified)
    except msgspec.DecodeError as error:
        raise ZooError(
            f"Expected the rows of an earlier verification in {path}, received: {error}.",
            remedy="Name another page with --out, or delete that file.",
        ) from error


def write(page: Path, verified: Verified) -> None:
    """Writes the page and `zoo.json` beside it, each at once: a kill leaves the old one or the new one."""
    page.parent.mkdir(parents=True, exist_ok=True)
    numbers = msgspec.json.format(msgspec.json.encode(verified), indent=2) + b"\n"
    for path, content in ((page.with_suffix(".json"), numbers), (page, render(verified).encode())):
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)


def _took(verified: Verified) -> str:
    parts = [
        f"{len(run.systems)} of the systems took {run.seconds / 60:.1f} minutes, {run.jobs} side by side on "
        f"{run.processors} processors"
        for run in verified.runs
    ]
    total = sum(run.seconds for run in verified.runs)
    whole = f": {total / 60:.0f} minutes in all" if len(parts) > 1 else ""
    return f"{'; '.join(parts)}{whole}.\n"


def verdict(row: Row) -> str:
    """Whether the rounds helped, as a sentence's end."""
    gains = [
        (after - before) * (1 if row.higher_is_better else -1)
        for before, after in zip(row.central, row.federated, strict=True)
    ]
    helped = sum(gain > 0 for gain in gains)
    if helped == len(gains):
        return "help"
    return "do not help" if helped == 0 else f"help in {helped} of {len(gains)} seeds"


def show(row: Row, values: tuple[float, ...]) -> str:
    """The mean of the seeds and half their range; in percent where the measure is a share."""
    if not values:
        return "-"
    scale, unit, digits = (100, " %", 1) if row.percent else (1, "", 2)
    text = f"{scale * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * (max(values) - min(values)) / 2:.{digits}f}"
    return text + unit


def _gains(row: Row) -> tuple[str, ...]:
    if row.failure and not row.federated:
        return (row.name, f"failed: {row.failure}", "-", show(row, row.central), "-", "-", "-")
    arrow = "higher is better" if row.higher_is_better else "lower is better"
    rounds = f"{row.rounds} on {row.devices} devices; {verdict(row)}"
    rounds += f"; failed: {row.failure}" if row.failure else ""
    return (
        row.name + (" (quick)" if row.quick else ""),
        f"{row.measure}, {arrow}",
        f"{show(row, row.baseline)} ({row.baseline_name})",
        show(row, row.central),
        show(row, row.federated),
        show(row, row.everything),
        rounds,
    )


def _sizes(row: Row) -> tuple[str, ...]:
    if row.int8 is None:
        return (row.name, f"{row.parameters:,}", "-", "-", "-", "-", "-", row.not_int8 or "-")
    int8 = row.int8
    drop = (int8.reference - int8.value) * (1 if row.higher_is_better else -1)
    scale, unit = (100, " points") if row.percent else (1, "")
    return (
        row.name,
        f"{row.parameters:,}",
        show(row, (int8.value,)),
        f"{scale * drop:.2f}{unit}",
        f"{int8.size_bytes / 1e3:.1f}",
        f"{int8.cycles:,}" if int8.cycles else "-",
        f"{int8.npu_percent:.0f} %" if int8.cycles else "-",
        int8.remark or "-",
    )


def _training(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.trainable_bytes / 1e3:.0f}",
        f"{row.step_ms:.1f}",
        str(row.batch_size),
        f"{row.peak_mib:.0f}",
        row.runtime or "-",
        "-" if row.parity is None else f"{row.parity:.0e}",
        "-" if row.rounding is None else f"{row.rounding:.0e}",
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells) + "\n"
