"""The device's own samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge.sample_count import count_samples
from hedgerow.edge.samples import SampleFolder
from hedgerow.errors import SamplesError


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    x, y = np.arange(24, dtype=np.float32).reshape(4, 3, 2), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "train.npz", x=x, y=y)
    samples = SampleFolder(tmp_path).load("train")
    np.testing.assert_array_equal(samples.x, x)
    np.testing.assert_array_equal(samples.y, y)
    assert len(samples) == 4
    assert (count_samples(tmp_path, "train"), count_samples(tmp_path, "test")) == (4, 0)


def test_several_inputs_are_read_by_their_names(tmp_path: Path) -> None:
    arrays = {f"x{index}": np.full((3, index + 1), index, np.float32) for index in range(11)}
    np.savez(tmp_path / "train.npz", y=np.zeros((3, 2), np.int32), **arrays)
    samples = SampleFolder(tmp_path).load("train")
    assert isinstance(samples.x, dict)
    assert list(samples.x) == [f"x{index}" for index in range(11)]
    assert all(np.array_equal(samples.x[name], arrays[name]) for name in arrays)
    assert (len(samples), count_samples(tmp_path, "train")) == (3, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2))}, "y"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, r"\(3, 2\) and \(2,\)"),
        ({"x0": np.zeros((3, 2)), "x1": np.zeros((2, 2)), "y": np.zeros(3)}, r"\(2, 2\) and \(3,\)"),
        ({"x0": np.zeros((3, 2)), "x2": np.zeros((3, 2)), "y": np.zeros(3)}, "x0, x1 and y for two inputs"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "received none"),
        ({"x": np.float32(1), "y": np.float32(1)}, "as many labels"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.zeros(2)}, "NaN"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2)}, "numbers"),
        ({"x": np.array([{}, {}], dtype=object), "y": np.zeros(2)}, "allow_pickle"),
    ],
    ids=[
        "no labels",
        "lengths",
        "lengths of two inputs",
        "a gap",
        "empty",
        "scalars",
        "NaN",
        "text",
        "pickle",
    ],
)
def test_samples_that_cannot_be_used_are_refused(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(SamplesError, match=message):
        SampleFolder(tmp_path).load("train")


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_archive_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "test.npz").write_bytes(content)
    with pytest.raises(SamplesError, match=r"test\.npz"):
        SampleFolder(tmp_path).load("test")
    assert count_samples(tmp_path, "test") == 0
