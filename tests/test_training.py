"""Central training: reproducible, watched, and written down for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow.models import evaluation, summaries, training
from hedgerow.models.datasets import Dataset


def blobs(seed: int) -> Dataset:
    """Two clouds of points, 120 examples, that a line tells apart."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, 120).astype(np.int32)
    x = random.normal(size=(120, 3)).astype(np.float32) + 3 * y[:, None].astype(np.float32)
    return Dataset(x, y, ("low", "high"))


def model(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def train(one: keras.Model, seed: int = 0, **options: object) -> training.TrainingResult:
    return training.train_centrally(
        one, blobs(0), epochs=4, batch_size=16, learning_rate=0.02, seed=seed, **options
    )


def test_it_learns_and_tells_every_epoch() -> None:
    told: list[training.EpochResult] = []
    one, validation = model(), blobs(1)
    result = train(one, validation=validation, on_epoch=told.append)
    assert tuple(told) == result.epochs
    assert [epoch.epoch for epoch in told] == [1, 2, 3, 4]
    assert told[-1].loss < told[0].loss
    after = evaluation.evaluate(one.predict(validation.x, verbose=0), validation.y)
    assert told[-1].validation_accuracy == pytest.approx(after.accuracy, abs=1e-6)
    assert after.accuracy > 0.95
    assert result.seconds == pytest.approx(sum(epoch.seconds for epoch in told))


def test_without_validation_nothing_is_claimed_about_it() -> None:
    assert {epoch.validation_accuracy for epoch in train(model()).epochs} == {None}


def test_the_same_seed_trains_the_same_weights() -> None:
    first, again, other = model(), model(), model()
    results = train(first, seed=5), train(again, seed=5), train(other, seed=6)
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True))
    assert [epoch.loss for epoch in results[0].epochs] == [epoch.loss for epoch in results[1].epochs]
    assert not all(
        np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True)
    )


def test_the_learning_rate_falls_to_zero() -> None:
    one = model()
    train(one)
    # 120 examples in batches of 16 make 8 steps an epoch.
    assert int(one.optimizer.iterations) == 4 * 8
    assert float(one.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_evaluation_by_hand() -> None:
    outputs = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.0, 1.0, 0.0]])
    judged = evaluation.evaluate(outputs, np.array([0, 1, 1, 1], np.int32))
    assert judged.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert judged.accuracy == 0.5


def test_evaluation_of_int8_and_of_nothing() -> None:
    outputs = np.array([[-128, 127], [5, -5]], np.int8)
    assert evaluation.evaluate(outputs, np.array([1, 0], np.int32)).accuracy == 1.0
    assert evaluation.evaluate(np.zeros((0, 2)), np.zeros(0, np.int32)).accuracy == 0.0


def test_summaries_hold_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "summaries" / "central"
    with summaries.SummaryWriter(folder) as writer:
        writer.scalars({"loss": 1.5, "accuracy": 0.25}, step=1)
        writer.scalars({"loss": 0.5}, step=7)
    (file,) = folder.iterdir()
    assert ".tfevents." in file.name
    found = [
        (value.tag, event.step, float(tf.make_ndarray(value.tensor)), value.metadata.plugin_data.plugin_name)
        for record in tf.data.TFRecordDataset(str(file))
        for event in [tf.compat.v1.Event.FromString(record.numpy())]
        for value in event.summary.value
    ]
    assert found == [
        ("loss", 1, 1.5, "scalars"),
        ("accuracy", 1, 0.25, "scalars"),
        ("loss", 7, 0.5, "scalars"),
    ]


def test_summaries_show_before_the_writer_is_closed(tmp_path: Path) -> None:
    with summaries.SummaryWriter(tmp_path) as writer:
        writer.scalars({"loss": 1.0}, step=0)
        (file,) = tmp_path.iterdir()
        before = file.stat().st_size
        writer.scalars({"loss": 2.0}, step=1)
        assert file.stat().st_size > before
