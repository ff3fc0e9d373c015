"""The pictures of the report: SVG that stands inside a page and takes its colours from it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .record import Report

# Stand-ins that `_picture` replaces by the page's colours: one picture is right in the light and in the dark.
INK, BEFORE, AFTER = "#010101", "#020202", "#030303"
PAGE_COLOURS = {INK: "currentColor", BEFORE: "var(--before)", AFTER: "var(--after)"}
WIDTH_INCHES = 5.2
WIDE_INCHES = 11.0
ROW_INCHES = 0.3
MANY_CLASSES = 15
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

# On a machine's first run matplotlib announces that it collects fonts, which would spoil the demo's screen.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def accuracy_per_round(report: Report) -> str:
    """Accuracy on the held-out set from the central model to the last round; the int8 releases as points."""
    accuracy = report.accuracy
    assert accuracy is not None
    held_out = [(0, accuracy.central_float)]
    held_out += [(one.round, one.accuracy) for one in report.rounds if one.accuracy is not None]
    on_devices = [
        (one.round, one.device_accuracy) for one in report.rounds if one.device_accuracy is not None
    ]

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*held_out, strict=True), "-o", color=AFTER, label="held-out set, float")
        if accuracy.central_int8 is not None and accuracy.federated_int8 is not None:
            ends = [accuracy.central_int8, accuracy.federated_int8]
            axes.plot([0, held_out[-1][0]], ends, "D", color=BEFORE, label="held-out set, int8")
        if on_devices:
            axes.plot(*zip(*on_devices, strict=True), "--", color=INK, alpha=0.6, label="devices' own tests")
        axes.set_xlabel("round (0: the central model)")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
        _finish_rounds(axes)

    return _picture("accuracy-per-round", 3.8, draw)


def loss_per_round(report: Report) -> str:
    """Loss after every round, on the held-out set where it has answers, and on the devices' own tests."""
    held_out = [(one.round, one.loss) for one in report.rounds if one.loss is not None]
    on_devices = [(one.round, one.device_loss) for one in report.rounds if one.device_loss is not None]

    def draw(axes: Axes) -> None:
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "-o", color=AFTER, label="held-out set")
        if on_devices:
            axes.plot(*zip(*on_devices, strict=True), "--o", color=INK, alpha=0.6, label="devices' own tests")
        axes.set_xlabel("round")
        _finish_rounds(axes)

    return _picture("loss-per-round", 3.8, draw)


def before_and_after(name: str, rows: Sequence[tuple[str, float, float]], *, percent: bool = True) -> str:
    """Two numbers per row, before and after the rounds, joined by a line.

    Args:
        name: Of the picture; unique in the page.
        rows: Name of the row, the number before, the number after.
        percent: Whether they are shares, 0 to 1.
    """
    heights = np.arange(len(rows))
    before, after = ([row[column] for row in rows] for column in (1, 2))

    def draw(axes: Axes) -> None:
        axes.hlines(heights, before, after, color=INK, alpha=0.3, linewidth=3)
        # Larger, so that it is seen around the other where nothing changed.
        axes.plot(before, heights, "o", color=BEFORE, markersize=9, label="before")
        axes.plot(after, heights, "o", color=AFTER, label="after")
        axes.set_yticks(heights, [row[0] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _picture(name, 0.9 + ROW_INCHES * len(rows), draw)


def is_wide(labels: Sequence[str]) -> bool:
    """Whether a table with a column per class takes the whole width of the page."""
    return len(labels) > MANY_CLASSES


def samples_per_class(report: Report) -> str:
    """Training examples of each class, for the central set and every device; the deeper, the more."""
    rows = [report.central_class_counts, *(device.class_counts for device in report.per_device)]
    names = ["central", *(device.device for device in report.per_device)]
    counts = np.array(rows)

    def draw(axes: Axes) -> None:
        _cells(axes, counts, counts / max(1, counts.max()))
        axes.set_yticks(np.arange(len(names)), names)
        _class_ticks(axes, report.labels)

    return _picture("samples-per-class", 1.1 + ROW_INCHES * len(names), draw, wide=is_wide(report.labels))


def examples_per_device(report: Report) -> str:
    """How many training examples each device has."""
    names = [device.device for device in report.per_device]
    counts = [device.train_examples for device in report.per_device]

    def draw(axes: Axes) -> None:
        bars = axes.barh(np.arange(len(names)), counts, color=AFTER, alpha=0.6)
        axes.bar_label(bars, padding=3)
        axes.set_yticks(np.arange(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    return _picture("examples-per-device", 0.5 + ROW_INCHES * len(names), draw)


def confusion(name: str, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A confusion matrix, each row shaded by its shares.

    Args:
        name: Of the picture; unique in the page.
        matrix: Row i, column j counts the examples of class i taken for class j.
        labels: The name of each class.
    """
    counts = np.array(matrix)

    def draw(axes: Axes) -> None:
        _cells(axes, counts, counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))
        axes.set_yticks(np.arange(len(labels)), labels)
        axes.set_ylabel("true class")
        axes.set_xlabel("taken for")
        _class_ticks(axes, labels)

    wide = is_wide(labels)
    return _picture(name, (WIDE_INCHES if wide else WIDTH_INCHES) * 0.85, draw, wide=wide)


def _finish_rounds(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    if axes.has_data():
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def _cells(axes: Axes, counts: npt.NDArray[np.int64], shades: npt.NDArray[np.float64]) -> None:
    """Draws a table of numbers, each on a cell as dark as its shade, 0 to 1."""
    rows, columns = counts.shape
    places = [(column, row) for row in range(rows) for column in range(columns)]
    colours = [(*to_rgb(AFTER), 0.03 + 0.67 * float(shades[row, column])) for column, row in places]
    squares = [Rectangle((column - 0.47, row - 0.46), 0.94, 0.92) for column, row in places]
    axes.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="none"))
    for column, row in places:
        if counts[row, column]:
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5 if len(text) < 4 else 6)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _class_ticks(axes: Axes, labels: Sequence[str]) -> None:
    short, wide = max(map(len, labels)) <= 3, is_wide(labels)
    rotation = 90 if wide else 0 if short else 40
    axes.set_xticks(
        np.arange(len(labels)), labels, rotation=rotation, ha="center" if wide or short else "right"
    )


def _picture(name: str, height_inches: float, draw: Callable[[Axes], None], *, wide: bool = False) -> str:
    """What `draw` draws, as an <svg> element whose ids begin with `name`."""
    page = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        width_inches = WIDE_INCHES if wide else WIDTH_INCHES
        figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    svg = page.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
