"""Keras's own data sets: where they are kept, and what a user is told where they cannot be fetched."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.errors import DatasetError
from hedgerow.models.datasets import keras_data
from hedgerow.training_task import find_task


def _idx(array: np.ndarray) -> bytes:
    """The IDX format that MNIST and its relatives are published in."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as Keras keeps what it fetched: a few pictures under the names of Fashion-MNIST."""
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 10)):
        images = random.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(_idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(_idx((np.arange(count) % 10).astype(np.uint8)))
    return tmp_path


def test_what_keras_keeps_is_read(kept: Path) -> None:
    train, test = keras_data("keras:fashion-mnist")
    raw = np.frombuffer(
        gzip.decompress((kept / "datasets/fashion-mnist/train-images-idx3-ubyte.gz").read_bytes())[16:],
        np.uint8,
    )
    assert train.x.shape == (40, 28, 28, 1)
    assert test.x.shape == (10, 28, 28, 1)
    assert np.allclose(train.x.reshape(-1) * 255, raw, atol=1e-4)
    assert train.labels[9] == "ankle boot"
    assert test.y.tolist() == list(range(10))


def test_a_model_of_the_zoo_trains_on_it(kept: Path) -> None:
    task = find_task("digits-convnet", "keras:fashion_mnist", held_out=0.5, loss=None, seed=0)
    assert (len(task.train), len(task.held_out)) == (40, 10), "divided as its authors did"
    assert task.build()(task.train.x).shape == (40, 10)
    with pytest.raises(DatasetError, match=r"shape \[32, 32, 1\] that resnet8 takes, received \[28, 28, 1\]"):
        find_task("resnet8", "keras:fashion_mnist", held_out=0.5, loss=None, seed=0)


def test_colours_keep_their_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    part = (np.full((3, 32, 32, 3), 51, np.uint8), np.array([[9], [0], [3]], np.uint8))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (part, part))
    train, _ = keras_data("keras:cifar10")
    assert train.x.shape == (3, 32, 32, 3)
    assert np.allclose(train.x, 0.2)
    assert [train.labels[number] for number in train.y] == ["truck", "airplane", "cat"]


def test_without_a_network_the_user_is_told_what_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DatasetError, match="Expected keras:mnist on this machine, or a network") as caught:
        keras_data("keras:mnist")
    assert "~/.keras/datasets" in caught.value.remedy


def test_an_unknown_set_is_told_the_names() -> None:
    with pytest.raises(DatasetError, match=r"keras:mnist, .*keras:cifar100, received 'keras:imagenet'"):
        keras_data("keras:imagenet")
