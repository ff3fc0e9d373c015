"""The geometry of a window that slides over an image: what convolutions and poolings share.

A window has a kernel, strides, dilations and, per spatial axis, the padding before and after. ``SAME``
padding is TensorFlow's: ``ceil(n / stride)`` outputs, with the odd element of padding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ...errors import DynamicShapeError


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window over the spatial axes of a channels-last tensor.

    Attributes:
        size: Spatial sizes of the input.
        kernel: Sizes of the kernel.
        strides: Steps.
        dilations: Distances between two taps.
        pads: Padding before and after, per axis.
        padding: ``SAME``, ``VALID`` or ``EXPLICIT``.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    padding: str

    @property
    def extent(self) -> tuple[int, ...]:
        """How many input elements the dilated kernel spans, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            (n + sum(p) - e) // s + 1
            for n, p, e, s in zip(self.size, self.pads, self.extent, self.strides, strict=True)
        )

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return int(np.prod(self.kernel))

    @property
    def is_pointwise(self) -> bool:
        """Whether every output element reads exactly the input element at its place."""
        return self.taps == 1 and set(self.strides) == {1} and not any(map(sum, self.pads))

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Padding that leaves exactly the elements some window reads; negative where the last go unread."""
        return tuple(
            (before, (outputs - 1) * stride + extent - size - before)
            for outputs, stride, extent, size, (before, _) in zip(
                self.output, self.strides, self.extent, self.size, self.pads, strict=True
            )
        )


def window_of(op: tf.Operation, x: tf.Tensor, kernel: Sequence[int]) -> Window:
    """Reads the window from an operator's attributes.

    Args:
        op: A channels-last convolution or pooling of any number of spatial axes.
        x: Its input, ``[B, *spatial, C]``.
        kernel: Spatial sizes of the kernel.

    Raises:
        DynamicShapeError: A size of the input is not known.
    """
    shape = static_shape(x)
    size, rank = tuple(shape[1:-1]), len(shape) - 2
    strides = tuple(op.get_attr("strides")[1:-1])
    names = {attribute.name for attribute in op.op_def.attr}
    dilations = tuple(op.get_attr("dilations")[1:-1]) if "dilations" in names else (1,) * rank
    padding = op.get_attr("padding").decode()
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads: tuple[tuple[int, int], ...]
    if padding == "SAME":
        pads = tuple(_same(n, e, s) for n, e, s in zip(size, extent, strides, strict=True))
    elif padding == "VALID":
        pads = ((0, 0),) * rank
    else:
        flat = op.get_attr("explicit_paddings")[2:-2]
        pads = tuple((flat[2 * axis], flat[2 * axis + 1]) for axis in range(rank))
    return Window(size, tuple(kernel), strides, dilations, pads, padding)


def static_shape(x: tf.Tensor) -> list[int]:
    """The sizes of a tensor.

    Raises:
        DynamicShapeError: One of them is not known.
    """
    if x.shape.rank is None or None in x.shape.as_list():
        raise DynamicShapeError(
            f"Expected sizes known at conversion, {x.name.split('/')[-1]!r} in {x.op.name!r} has {x.shape}."
        )
    sizes: list[int] = x.shape.as_list()
    return sizes


def _same(size: int, extent: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2
