"""How `hedgerow targets`, `check`, `inspect` and `bench` show what they found."""

from __future__ import annotations

import itertools
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .hardware import compilers, execution, fitness, machine
from .hardware.benchmark import Benchmark, Failure
from .hardware.graph import ModelGraphs
from .hardware.inspection import FileReport
from .hardware.targets import Target


def verdict(found: fitness.Fitness) -> str:
    """What a check found, in one line with rich's colours."""
    share = f"{found.accelerated_percent:.1f} % of the operators where they should be"
    parts = [share, f"weights {found.weights_kib:.1f} KiB", f"activations {found.activations_kib:.1f} KiB"]
    if found.compiled is not None and found.compiled.cycles is not None:
        parts.append(f"{found.compiled.cycles:,} cycles")
    if found.compiled is not None and found.compiled.inference_ms is not None:
        parts.append(f"{found.compiled.inference_ms:.2f} ms")
    start = f"{found.target.name}: {', '.join(parts)}"
    if found.runs_as_asked:
        return f"[green]{start}. It runs as asked.[/green]"
    return f"[yellow]{start}. {_fault(found)} {found.advice}[/yellow]"


def _fault(found: fitness.Fitness) -> str:
    """The first thing that is wrong, as a sentence."""
    fallback, memory = found.first_fallback, found.target.memory
    if found.failure:
        return f"It does not run: {found.failure}."
    if fallback is not None:
        operator = f"operator {fallback.operator.index}, {fallback.operator.name}"
        return f"First off: {operator}, runs on {fallback.where}, because {fallback.reason}."
    if not found.weights_fit:
        return f"The weights take {found.weights_kib:.1f} KiB of {memory.weights_kib}."
    if not found.activations_fit:
        return f"The activations take {found.activations_kib:.1f} KiB of {memory.activations_kib}."
    return "Its numbers are not those of the reference kernels."


def show_fitness(found: fitness.Fitness, console: Console) -> None:
    """Prints where each operator runs, what it takes, and the verdict."""
    table = Table("#", "operator", "output", "runs on", "why", title=found.target.title)
    for one in found.placements:
        place = f"{one.graph}.{one.operator.index}" if one.graph else str(one.operator.index)
        shape = _shape(one.shape)
        table.add_row(
            place, one.operator.name, shape, one.where, one.reason, style="yellow" * bool(one.reason)
        )
    console.print(table)
    memory = found.target.memory
    for what, used, limit in (
        ("weights", found.weights_kib, memory.weights_kib),
        ("activations", found.activations_kib, memory.activations_kib),
    ):
        of = "no limit of its own" if limit is None else f"of {limit:,} KiB"
        fits = limit is None or used <= limit
        colour = "green" if fits else "yellow"
        console.print(f"{what:<12} [{colour}]{used:,.1f} KiB[/{colour}] {of}", highlight=False)
    if found.arena is not None:
        console.print(
            f"{'arena':<12} measured with {found.arena.runtime}: {found.arena.head_kib:.1f} KiB shared by "
            f"tensors, {found.arena.tail_kib:.1f} KiB that stay",
            highlight=False,
            soft_wrap=True,
        )
    if found.verified is not None:
        distance = found.verified.distance
        console.print(
            f"{'numbers':<12} of {found.verified.runtime}: at most {distance} from the reference kernels, on "
            "random inputs",
            highlight=False,
            soft_wrap=True,
        )
    for note in found.notes:
        console.print(f"{'note':<12} {note}", highlight=False, soft_wrap=True)
    console.print(verdict(found), highlight=False, soft_wrap=True)


def show_target(target: Target, console: Console) -> None:
    """Prints one target in full."""
    accelerator, missing = target.accelerator, compilers.missing(target)
    rules = accelerator.rules if accelerator else target.cpu
    listed = ", ".join(rules.operators) or "every built-in one"
    rows = {
        "runtimes": ", ".join(target.runtimes),
        "files": ", ".join(target.kinds),
        "accelerator": "" if accelerator is None else accelerator.name,
        "compiled by": ""
        if accelerator is None
        else accelerator.compiler or "nothing: a delegate reads the file",
        "to compile": f"install {missing}" if missing else "",
        "types": ", ".join(rules.dtypes) or "every one",
        "operators": listed + (f", but not {', '.join(rules.excluded)}" if rules.excluded else ""),
        "weights": f"{target.memory.weights_kib:,} KiB" if target.memory.weights_kib else "",
        "activations": f"{target.memory.activations_kib:,} KiB" if target.memory.activations_kib else "",
        "verified on": ", ".join(target.verify),
        "notes": "\n".join(target.notes),
        "sources": "\n".join(target.sources),
    }
    table = Table(title=target.title, show_header=False)
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console.print(table)


def show_signature(name: str, model: ModelGraphs, costs: FileReport, console: Console) -> None:
    """Prints what a signature takes, gives and costs."""
    cost = costs.signatures[name]
    graph = model.graphs[model.entries()[name]]
    names = model.signature_names.get(name, {})
    table = Table(title=f"signature {name}" if name else "graph without a signature", show_header=False)
    for side, places in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        shown = [f"{names.get(i, graph.tensors[i].name)} {_tensor(graph.tensors[i])}" for i in places]
        table.add_row(side, "\n".join(shown))
    table.add_row("operators", ", ".join(f"{count} {one}" for one, count in cost.operators.items()))
    table.add_row("weights", f"{(cost.constant_bytes + cost.weight_bytes) / 1024:,.1f} KiB")
    if cost.weight_bytes:
        table.add_row("", f"of that {cost.weight_bytes / 1024:,.1f} KiB in variables")
    table.add_row("memory", f"{cost.peak_bytes / 1024:,.1f} KiB of tensors at its peak")
    table.add_row("arithmetic", f"{cost.flops:,} operations a run")
    console.print(table)


def show_benchmarks(results: list[Benchmark | Failure], *, threads: int, console: Console) -> None:
    """Prints a table per file, and why a runtime could not run it."""
    given = any(isinstance(one, Benchmark) and one.inputs == "given" for one in results)
    columns = ("p50 ms", "p90 ms", "p99 ms", "runs/s", "ratio", "MiB, peak", "load")
    first: dict[str, float] = {}
    for file, found in itertools.groupby(results, key=lambda one: (one.file, one.size_bytes)):
        ran = list(found)
        batch = next((one.examples for one in ran if isinstance(one, Benchmark) and one.examples > 1), 1)
        more = f", {batch} examples a run" if batch > 1 else ""
        console.print(f"[bold]{file[0]}[/bold], {file[1] / 1024:,.1f} KiB{more}", highlight=False)
        table = _plain_table("runtime", *columns, wrap=False)
        for one in ran:
            if isinstance(one, Failure):
                table.add_row(one.runtime, "fails", style="yellow")
                continue
            name = one.runtime.split()[0]
            ratio = one.p50_ms / first.setdefault(name, one.p50_ms)
            latencies = (f"{value:.3f}" for value in (one.p50_ms, one.p90_ms, one.p99_ms))
            memory = f"{one.model_mib:.1f}, {one.peak_mib:.1f}"
            rest = (f"{one.per_second:,.0f}", f"{ratio:.2f}", memory, f"{one.load_ms:.1f}")
            table.add_row(one.runtime, *latencies, *rest)
        console.print(table)
    for failure in (one for one in results if isinstance(one, Failure)):
        words = f"[yellow]{failure.file} on {failure.runtime}: {failure.failure}.[/yellow]"
        console.print(words, soft_wrap=True, highlight=False)
    here = machine.probe()
    start = (
        f"{here.arch} with {here.cores} cores, {threads} thread{'s' if threads > 1 else ''}, "
        f"{'given' if given else 'random'} inputs."
    )
    console.print(
        f"{start} ratio: p50 to the first file's. MiB: with the model, and the most of the whole process.",
        style="dim",
        highlight=False,
    )


def _plain_table(first: str, *columns: str, wrap: bool = True) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, no_wrap=not wrap)
    return table


def _tensor(tensor: Any) -> str:
    scale = f", step {tensor.scales[0]:.3g}" if len(tensor.scales) == 1 else ""
    return f"{tensor.dtype}{_shape(tensor.shape)}{scale}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('?' if size < 0 else str(size) for size in shape)}]"


def show_targets(found: list[Target], console: Console) -> None:
    """Prints a line for each target."""
    table = _plain_table("target", "what it is", "compiler", "verified on")
    here = execution.installed()
    for target in found:
        compiler = target.accelerator.compiler if target.accelerator else None
        shown = f"[dim]({compiler})[/dim]" if compilers.missing(target) else compiler or ""
        verified = ", ".join(one for one in target.verify if one in here) or "[dim]nothing here[/dim]"
        table.add_row(target.name, target.title, shown, verified)
    console.print(table)
    console.print("(compiler): not installed here. `hedgerow targets NAME` shows one in full.", style="dim")
