"""The report of a conversion for people: one HTML page with its pictures in it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from .conversion_report import ConversionReport

_BARS = ("#2e7d4f", "#c2701c", "#b3261e", "#4a6fa5")
_SIDES = {"accelerator": _BARS[0], "CPU": _BARS[1], "nowhere": _BARS[2]}
_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def html(report: ConversionReport) -> str:
    """The report as one page: no other file, no script, no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hedgerow", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [
        ("Size and accuracy per recipe", _recipes(report)),
        ("Latency on this machine", _latencies(report)),
    ]
    if report.layers:
        pictures.append(("What int8 costs, layer by layer", _layers(report)))
    if report.operators:
        pictures.append(("Where the operators run", _operators(report)))
    where = {target: places(counts) for target, counts in report.operators.items()}
    return environment.get_template("conversion.html.j2").render(
        report=report, pictures=pictures, operators=where
    )


def _recipes(report: ConversionReport) -> str:
    """One bar per try, with its size, and its accuracy beside the bar; the first try is on top."""
    rungs = [rung for rung in report.rungs if rung.value is not None][::-1]
    wanted = rungs[0].reference if rungs else None

    def draw(axes: Axes) -> None:
        colours = [_BARS[0] if rung.passed else _BARS[2] for rung in rungs]
        bars = axes.barh(
            range(len(rungs)), [rung.size_bytes / 1024 for rung in rungs], color=colours, height=0.6
        )
        axes.bar_label(bars, [f"{rung.value:.4f}" for rung in rungs], padding=3)
        axes.set_yticks(range(len(rungs)), [rung.recipe for rung in rungs])
        axes.margins(x=0.18)
        metric = rungs[0].metric.replace("_", " ") if rungs else "metric"
        axes.set_xlabel(f"KiB; beside the bar the {metric} (model {wanted:.4f})" if rungs else "KiB")

    return _svg("recipes", draw)


def _latencies(report: ConversionReport) -> str:
    found = report.benchmarks[::-1]

    def draw(axes: Axes) -> None:
        bars = axes.barh(range(len(found)), [one.p50_ms for one in found], color=_BARS[3], height=0.6)
        axes.bar_label(bars, [f"{one.p50_ms:.3f}" for one in found], padding=3)
        axes.set_yticks(
            range(len(found)), [f"{one.file.removesuffix('.tflite')}\n{one.runtime}" for one in found]
        )
        axes.margins(x=0.15)
        axes.set_xlabel("median of one run, ms, one thread")

    return _svg("latencies", draw)


def _layers(report: ConversionReport) -> str:
    costs = report.layers[:12][::-1]

    def draw(axes: Axes) -> None:
        axes.barh([cost.layer for cost in costs], [cost.error for cost in costs], color=_BARS[1], height=0.6)
        axes.set_xlabel("change of the output if this operator alone is int8, standard deviations")

    return _svg("layers", draw)


def places(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    """What runs in each place: `{"CPU": "2 DEQUANTIZE, 1 SOFTMAX"}`."""
    found: dict[str, list[str]] = {}
    for operator, where in counts.items():
        for place, count in where.items():
            found.setdefault(place, []).append(f"{count} {operator}")
    return {place: ", ".join(operators) for place, operators in found.items()}


def _operators(report: ConversionReport) -> str:
    totals = {target: _by_side(counts) for target, counts in report.operators.items()}

    def draw(axes: Axes) -> None:
        left = dict.fromkeys(totals, 0)
        for side, colour in _SIDES.items():
            widths = [total[side] for total in totals.values()]
            if any(widths):
                axes.barh(
                    list(totals), widths, left=list(left.values()), color=colour, label=side, height=0.6
                )
            left = {target: left[target] + total[side] for target, total in totals.items()}
        axes.set_xlabel("operators")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return _svg("operators", draw)


def _by_side(counts: dict[str, dict[str, int]]) -> Counter[str]:
    """How many operators run on which side of a target."""
    total: Counter[str] = Counter()
    for where in counts.values():
        for place, count in where.items():
            total[place if place in _SIDES else "accelerator"] += count
    return total


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    page = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(page, format="svg", metadata={"Date": None})
    text = page.getvalue()
    return text[text.index("<svg") :]
