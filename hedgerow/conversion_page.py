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
    from .conversion import ConversionReport

_BARS = ("#2e7d4f", "#c2701c", "#b3261e", "#4a6fa5")
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
    pictures = [("Size and accuracy per recipe", _recipes(report)), ("Latency here", _latencies(report))]
    if report.layers:
        pictures.append(("Error per layer", _layers(report)))
    if report.operators:
        pictures.append(("Where the operators run", _operators(report)))
    return environment.get_template("conversion.html.j2").render(report=report, pictures=pictures)


def _recipes(report: ConversionReport) -> str:
    rungs = [rung for rung in report.rungs if rung.value is not None]
    names = [f"{rung.recipe}\n{rung.value:.4f}" for rung in rungs]

    def draw(axes: Axes) -> None:
        colours = [_BARS[0] if rung.passed else _BARS[2] for rung in rungs]
        axes.bar(names, [rung.size_bytes / 1024 for rung in rungs], color=colours, width=0.6)
        axes.set_ylabel("KiB")
        axes.set_xlabel(f"recipe and {rungs[0].metric if rungs else 'metric'} of its file")

    return _svg("recipes", draw)


def _latencies(report: ConversionReport) -> str:
    names = [f"{one.file.removesuffix('.tflite')}\n{one.runtime}" for one in report.benchmarks]

    def draw(axes: Axes) -> None:
        axes.barh(names, [one.p50_ms for one in report.benchmarks], color=_BARS[3], height=0.6)
        axes.set_xlabel("median of one run, ms, one thread")

    return _svg("latencies", draw)


def _layers(report: ConversionReport) -> str:
    costs = report.layers[:12][::-1]

    def draw(axes: Axes) -> None:
        axes.barh([cost.layer for cost in costs], [cost.error for cost in costs], color=_BARS[1], height=0.6)
        axes.set_xlabel("change of the output if this layer alone is rounded, standard deviations")

    return _svg("layers", draw)


def _operators(report: ConversionReport) -> str:
    totals = {
        target: sum((Counter(places) for places in counts.values()), Counter[str]())
        for target, counts in report.operators.items()
    }
    places = sorted({place for total in totals.values() for place in total})

    def draw(axes: Axes) -> None:
        left = dict.fromkeys(totals, 0)
        for place in places:
            colour = {"CPU": _BARS[1], "nowhere": _BARS[2]}.get(place, _BARS[0])
            widths = [total[place] for total in totals.values()]
            axes.barh(list(totals), widths, left=list(left.values()), color=colour, label=place, height=0.6)
            left = {target: left[target] + total[place] for target, total in totals.items()}
        axes.set_xlabel("operators")
        axes.legend()

    return _svg("operators", draw)


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    page = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(page, format="svg", metadata={"Date": None})
    text = page.getvalue()
    return text[text.index("<svg") :]
