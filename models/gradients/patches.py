"""Cutting an image into the patches that a window reads, and adding patches up to an image again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from . import axis
from .window import Window, static_shape


def cut(x: tf.Tensor, window: Window) -> tf.Tensor:
    """The patches of an image, tap by tap: ``[B * outputs, taps * C]``, as filters of a convolution lie.

    Args:
        x: ``[B, H, W, C]``.
        window: What reads it.
    """
    channels = static_shape(x)[-1]
    patches = _by_convolution(x, window) if channels == 1 else _by_slices(x, window)
    return tf.reshape(patches, [-1, window.taps * channels])


def paste(patches: tf.Tensor, window: Window, channels: int) -> tf.Tensor:
    """The adjoint of :func:`cut`: adds every element of the patches where it was read.

    Args:
        patches: ``[B * outputs, taps * C]``.
        window: What read them.
        channels: C.

    Returns:
        ``[B, H, W, C]``.
    """
    (rows, columns), (down, right) = window.output, window.strides
    height, width = _phases(window)
    patches = tf.reshape(patches, [-1, rows, columns, window.taps * channels])
    sums: list[tf.Tensor | None] = [None] * down
    for run in _runs(window):
        piece = tf.slice(patches, [0, 0, 0, run.tap * channels], [-1, rows, columns, run.count * channels])
        margins = [
            [0, 0],
            [run.top, height - rows - run.top],
            [run.left, width - columns - run.left],
            [run.phase[1] * channels, (right - run.phase[1] - run.count) * channels],
        ]
        piece = tf.pad(piece, margins) if any(map(any, margins)) else piece
        before = sums[run.phase[0]]
        sums[run.phase[0]] = piece if before is None else before + piece
    batch = static_shape(patches)[0]
    # The first row is always read. Rows that never are widen the row before by zeros: a tensor of zeros
    # would be in the file.
    blocks: list[tf.Tensor] = []
    for phase, block in enumerate(sums):
        if block is not None:
            unread = next((n for n, one in enumerate(sums[phase + 1 :]) if one is not None), down - phase - 1)
            blocks.append(tf.pad(block, [[0, 0], [0, 0], [0, unread * width], [0, 0]]) if unread else block)
    whole = blocks[0] if len(blocks) == 1 else tf.concat(blocks, 2)
    whole = tf.reshape(whole, [batch, height * down, width * right, channels])
    return axis.grow(whole, [(-before, -after) for before, after in _margins(window)])


class _Run:
    """Taps of one row that lie side by side once the columns are folded into the channels.

    Attributes:
        tap: Number of the first.
        count: How many.
        phase: Row and column of the first, modulo the strides.
        top: Row, in strides.
        left: Column, in strides.
    """

    __slots__ = ("count", "left", "phase", "tap", "top")

    def __init__(self, tap: int, row: int, column: int, strides: tuple[int, ...]) -> None:
        self.tap, self.count = tap, 1
        (self.top, first), (self.left, second) = divmod(row, strides[0]), divmod(column, strides[1])
        self.phase = (first, second)


def _runs(window: Window) -> Iterator[_Run]:
    for i in range(window.kernel[0]):
        run: _Run | None = None
        for j in range(window.kernel[1]):
            tap, row, column = i * window.kernel[1] + j, i * window.dilations[0], j * window.dilations[1]
            follows = run is not None and window.dilations[1] == 1 and column % window.strides[1]
            if run is not None and follows:
                run.count += 1
                continue
            if run is not None:
                yield run
            run = _Run(tap, row, column, window.strides)
        if run is not None:
            yield run


def _phases(window: Window) -> tuple[int, int]:
    """Rows and columns of the padded image, in strides."""
    height, width = (
        -(-((outputs - 1) * stride + extent) // stride)
        for outputs, stride, extent in zip(window.output, window.strides, window.extent, strict=True)
    )
    return height, width


def _margins(window: Window) -> list[tuple[int, int]]:
    """Padding to whole strides; negative where the last elements go unread."""
    return [
        (before, phases * stride - size - before)
        for phases, stride, size, (before, _) in zip(
            _phases(window), window.strides, window.size, window.pads, strict=True
        )
    ]


def _by_slices(x: tf.Tensor, window: Window) -> tf.Tensor:
    """A copy per run of taps.

    Columns a stride apart are folded into the channels and rows into the columns, so that no slice has a
    stride: slices with one never reach the fast kernels.
    """
    batch, channels = static_shape(x)[0], static_shape(x)[-1]
    (rows, columns), (down, right) = window.output, window.strides
    height, width = _phases(window)
    folded = tf.reshape(axis.grow(x, _margins(window)), [batch, height, down * width, right * channels])
    taps = [
        tf.slice(
            folded,
            [0, run.top, run.phase[0] * width + run.left, run.phase[1] * channels],
            [batch, rows, columns, run.count * channels],
        )
        for run in _runs(window)
    ]
    return taps[0] if len(taps) == 1 else tf.concat(taps, -1)


def _by_convolution(x: tf.Tensor, window: Window) -> tf.Tensor:
    """A convolution with a one-hot filter per tap: static weights reach the fastest kernels."""
    padding = window.padding
    if padding == "EXPLICIT":
        x, padding = axis.grow(x, window.pads), "VALID"
    one_hot = np.zeros((*window.kernel, 1, window.taps), np.float32)
    for tap, (row, column) in enumerate(itertools.product(*map(range, window.kernel))):
        one_hot[row, column, 0, tap] = 1.0
    return tf.nn.conv2d(x, one_hot, window.strides, padding, dilations=window.dilations)
