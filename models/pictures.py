"""What a network learned and how, as SVG: learning curves, first filters, feature maps, the confusion matrix.

Drawn with matplotlib's object interface, which keeps no state between figures and needs no screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .backup import History

Array = npt.NDArray[Any]

MOST_MAPS = 16
MOST_LAYERS = 8
_DPI = 110


def draw_curves(history: History, path: Path) -> Path:
    """The loss and the metrics of every epoch, in training and on held-out examples."""
    names = [
        name
        for name in history[0]
        if not name.startswith("val_") and name not in ("seconds", "learning_rate")
    ]
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    epochs = range(1, len(history) + 1)
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        for key, label in ((name, "training"), (f"val_{name}", "held out")):
            if key in history[0]:
                axes.plot(epochs, [epoch[key] for epoch in history], label=label)
        axes.set(xlabel="epoch", title=name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return save(figure, path)


def draw_filters(model: keras.Model, path: Path) -> Path | None:
    """The kernels of the first convolution, averaged over its input channels; None without a convolution."""
    layer = next((one for one in leaves(model) if "Conv" in type(one).__name__ and one.weights), None)
    if layer is None:
        return None
    kernel = np.asarray(layer.weights[0])
    kernel = kernel[..., 0] if "Depthwise" in type(layer).__name__ else kernel.mean(axis=-2)
    pictures = np.moveaxis(kernel, -1, 0)[:64]
    if pictures.ndim == 2:
        pictures = pictures[:, None, :]
    title = f"filters of {layer.name}"
    if pictures.ndim == 4:
        title += ", time from left to right"
        apart = np.pad(pictures, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        pictures = np.concatenate(list(np.moveaxis(apart, 1, 0)), axis=2)[..., :-1]
    return save(_grid(pictures, title, "gray"), path)


def draw_feature_maps(model: keras.Model, inputs: Array | list[Array], path: Path) -> Path | None:
    """What each layer makes of one example; None where no layer gives maps.

    Args:
        model: A built model.
        inputs: [1, ...], or one such array for each input of the model.
        path: Where to.
    """
    maps = _feature_maps(model, inputs)
    if not maps:
        return None
    widest = min(MOST_MAPS, max(len(pictures) for _, pictures in maps))
    figure = Figure(figsize=(0.8 * widest + 1.5, 0.9 * len(maps)), layout="constrained")
    for row, (name, pictures) in enumerate(maps):
        for column, picture in enumerate(pictures[:widest]):
            axes = figure.add_subplot(len(maps), widest, row * widest + column + 1)
            axes.imshow(picture, cmap="magma", aspect="auto")
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return save(figure, path)


def draw_confusion(confusion: npt.NDArray[np.int64], labels: tuple[str, ...], path: Path) -> Path:
    """How often each class (rows) was taken for each (columns), as shares of the row."""
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    size = max(3.5, 0.4 * len(labels) + 1.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="taken for", ylabel="is")
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = str(confusion[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return save(figure, path)


def draw_shares(counts: Mapping[str, Sequence[int]], labels: tuple[str, ...], path: Path) -> Path:
    """How many examples of each class each device has: circles as large as their numbers."""
    table = np.array(list(counts.values()), np.int64)
    figure = Figure(figsize=(0.4 * len(labels) + 2.5, 0.3 * len(counts) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    rows, columns = np.nonzero(table)
    areas = 220 * table[rows, columns] / max(1, int(table.max()))
    axes.scatter(columns, rows, s=areas, color="tab:green")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(counts)), [f"{name} ({sum(own)})" for name, own in counts.items()])
    axes.set(xlim=(-0.7, len(labels) - 0.3), ylim=(len(counts) - 0.3, -0.7), xlabel="class")
    axes.set_title("examples per class and device", fontsize=9)
    return save(figure, path)


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that hold no other, in order."""
    return [one for one in model._flatten_layers() if not list(one._flatten_layers(include_self=False))]


def _feature_maps(model: keras.Model, inputs: Array | list[Array]) -> list[tuple[str, Array]]:
    """Each layer's name and its maps, [maps, height, width]; a series' features are maps of height 1.

    Not of inputs, and not of dropout, which changes nothing once a model is trained.
    """
    chosen = [
        (layer, output)
        for layer in model.layers
        for output in [getattr(layer, "output", None)]
        if not isinstance(layer, keras.layers.InputLayer)
        and "Dropout" not in type(layer).__name__
        and output is not None
        and 3 <= len(output.shape) <= 5
    ][:MOST_LAYERS]
    if not chosen:
        return []
    outputs = keras.Model(model.inputs, [output for _, output in chosen]).predict_on_batch(inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    found = []
    for (layer, _), values in zip(chosen, outputs, strict=True):
        maps = np.moveaxis(values[0], -1, 0)
        maps = maps[:, None] if maps.ndim == 2 else maps
        found.append((layer.name, maps[:, maps.shape[1] // 2] if maps.ndim == 4 else maps))
    return found


def _grid(pictures: Array, title: str, colours: str) -> Figure:
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    limit = float(np.nanmax(np.abs(pictures)))
    height, width = pictures.shape[1:]
    cell_width = 0.8 * min(2.0, max(1.0, width / height))
    cell_height = max(0.25, cell_width * height / width)
    figure = Figure(figsize=(cell_width * columns + 0.4, cell_height * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for place, picture in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(picture, cmap=colours, vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as SVG, the same bytes for the same figure."""
    FigureCanvasSVG(figure)
    with rc_context({"svg.hashsalt": "hedgerow"}):
        figure.savefig(path, dpi=_DPI, metadata={"Date": None})
    return path
