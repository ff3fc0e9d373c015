"""The lint names what an old runtime would abort on or get wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tensorflow as tf

from hedgerow import errors
from hedgerow.models.trainable import lint
from hedgerow.models.trainable.conversion import convert
from hedgerow.models.trainable.file import read


def converted(function: Callable[..., tf.Tensor], *shapes: tuple[int, ...]) -> object:
    specs = {f"x{index}": tf.TensorSpec(shape, name=f"x{index}") for index, shape in enumerate(shapes)}

    def named(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": function(*(tensors[name] for name in specs))}

    return read(
        convert(tf.Module(), {"f": tf.function(named, autograph=False).get_concrete_function(**specs)})
    )


def test_a_broadcast_of_five_axes_is_found() -> None:
    model = converted(lambda a, b: a * b, (4, 3, 3, 3, 2), (4, 1, 3, 1, 2))
    (finding,) = lint.lint(model)
    assert finding.operator == "MUL"
    with pytest.raises(errors.UnsafeGraphError, match=r"MUL.*aborts tflite-runtime 2\.14"):
        lint.check(model)


def test_several_reversed_axes_are_found() -> None:
    (finding,) = lint.lint(converted(lambda a: tf.reverse(a, [0, 1]), (3, 4)))
    assert finding.operator == "REVERSE_V2"


def test_what_the_kernels_take_passes() -> None:
    assert lint.lint(converted(lambda a, b: a * b, (2, 3, 4, 5, 6), (6,))) == ()
    assert lint.lint(converted(lambda a, b: a * b, (3, 4, 5, 6), (3, 1, 5, 1))) == ()
    assert lint.lint(converted(lambda a: tf.reverse(a, [1]), (3, 4))) == ()
