"""Batches, augmentation and backups: the same seed and epoch give the same, whichever process asks."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow import errors
from hedgerow.models import augmentation, backup, batches, training
from hedgerow.models.datasets import Dataset
from hedgerow.models.keras_loss import keras_loss
from hedgerow.models.losses import CTC, Triplet


def numbers(count: int = 10) -> Dataset:
    return Dataset(np.arange(count, dtype=np.float32)[:, None], np.arange(count, dtype=np.int32))


def stream(epochs: range, **options: object) -> list[list[int]]:
    made = batches.batches(numbers(), batch_size=4, epochs=epochs, seed=3, **options)
    return [y.numpy().tolist() for _, y in made]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    three = stream(range(3))
    assert [len(batch) for batch in three] == [4, 4, 2] * 3
    epochs = [[number for batch in three[start : start + 3] for number in batch] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches.steps_of(numbers(), 4) == 3


def test_a_later_start_gives_the_same_epochs() -> None:
    assert stream(range(1, 3)) == stream(range(3))[3:]


def test_full_batches_alone() -> None:
    assert [len(batch) for batch in stream(range(2), full=True)] == [4, 4, 4, 4]
    assert batches.steps_of(numbers(), 4, full=True) == 2


def test_augmentation_repeats_itself_and_keeps_the_shape() -> None:
    images = tf.constant(np.random.default_rng(0).random((6, 10, 12, 1)), tf.float32)
    augment = augmentation.for_shape((10, 12, 1))
    seed = tf.constant([1, 2])
    once, again, other = augment(images, seed), augment(images, seed), augment(images, seed + 1)
    assert once.shape == images.shape
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_a_shifted_image_is_the_image_beside_its_mirrored_edge() -> None:
    image = np.zeros((1, 10, 10, 1), np.float32)
    image[0, 5, 5, 0] = 1
    places = set()
    for number in range(40):
        moved = augmentation.for_shape((10, 10, 1))(tf.constant(image), tf.constant([0, number])).numpy()
        (place,) = np.argwhere(moved[0, :, :, 0] > 0)
        assert 0.9 <= moved.max() <= 1.1
        places.add(tuple(place.tolist()))
    assert places == {(row, column) for row in (4, 5, 6) for column in (4, 5, 6)}


def test_series_are_scaled_and_jittered_in_their_own_measure() -> None:
    series = tf.constant(np.random.default_rng(0).normal(size=(200, 50, 3)) * 100, tf.float32)
    moved = augmentation.for_shape((50, 3))(series, tf.constant([0, 1])).numpy()
    ratio = moved.std(axis=(1, 2)) / series.numpy().std(axis=(1, 2))
    assert 0.89 < ratio.min() < 0.95 < 1.05 < ratio.max() < 1.12


def test_patience_and_the_best_epoch() -> None:
    history = [{"val_loss": value} for value in (3.0, 1.0, 2.0, 1.0)]
    assert backup.best_epoch(history, "val_loss") == 1
    assert not backup.is_patience_over(history, "val_loss", 3)
    assert backup.is_patience_over(history, "val_loss", 2)
    assert not backup.is_patience_over(history, "val_loss", None)
    assert not backup.is_patience_over([], "val_loss", 1)


def model(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dropout(0.3), keras.layers.Dense(2, activation="softmax")]
    )


def clouds() -> Dataset:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 50).astype(np.int32)
    return Dataset((random.normal(size=(50, 3)) + y[:, None]).astype(np.float32), y, ("low", "high"))


class Killed(keras.callbacks.Callback):
    """Ends a training after its third epoch, as a kill does: nothing is tidied up."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def train(one: keras.Model, folder: Path, **options: object) -> training.TrainingResult:
    settings: dict[str, object] = {"epochs": 6, "learning_rate": 0.05} | options
    patience, resume = settings.pop("patience", None), settings.pop("resume", False)
    durability = training.Durability(folder=folder, resume=resume, patience=patience)
    return training.train_centrally(
        one, clouds(), batch_size=16, seed=1, validation=clouds(), durability=durability, **settings
    )


def test_a_resumed_training_ends_as_a_whole_one(tmp_path: Path) -> None:
    whole, killed, resumed = model(), model(), model(seed=9)
    expected = train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(killed, tmp_path / "killed", callbacks=[Killed()])
    result = train(resumed, tmp_path / "killed", resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True))
    assert [epoch.loss for epoch in result.epochs] == [epoch.loss for epoch in expected.epochs]
    # A third start finds nothing left to do.
    again = model(seed=5)
    train(again, tmp_path / "killed", resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))


def test_a_backup_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(model(), tmp_path)
    with pytest.raises(errors.UsageError, match=r"which had epochs 6; received epochs 7.*leave --resume out"):
        train(model(), tmp_path, epochs=7, resume=True)


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    one = model()
    result = train(
        one, tmp_path, epochs=60, learning_rate=3.0, schedule="constant", optimizer="sgd", patience=3
    )
    assert len(result.epochs) < 60
    history = [{"val_loss": value} for value in _losses(tmp_path)]
    assert len(history) - 1 - backup.best_epoch(history, "val_loss") == 3
    kept = float(
        keras.losses.sparse_categorical_crossentropy(clouds().y, one.predict(clouds().x, verbose=0))
        .numpy()
        .mean()
    )
    assert kept == pytest.approx(min(_losses(tmp_path)), abs=1e-5)


def _losses(folder: Path) -> list[float]:
    import json

    return [epoch["val_loss"] for epoch in json.loads((folder / "history.json").read_text())]


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [("cosine", 1.0, 0.0), ("warmup", 0.0, 0.0), ("exponential", 1.0, 0.01), ("constant", 1.0, 1.0)],
)
def test_schedules(schedule: str, first: float, last: float) -> None:
    optimizer = training.make_optimizer("adam", 1.0, schedule, 100)
    optimizer.build([keras.Variable(0.0)])
    assert float(optimizer.learning_rate) == pytest.approx(first)
    optimizer.iterations.assign(100)
    assert float(optimizer.learning_rate) == pytest.approx(last, abs=1e-6)


def test_an_unknown_optimizer_is_told_the_names() -> None:
    with pytest.raises(errors.UsageError, match=r"adam, adamw, sgd, momentum.*received 'lion'"):
        training.make_optimizer("lion", 1.0, "cosine", 100)


def test_losses_become_keras_losses() -> None:
    assert isinstance(keras_loss(CTC(max_label_length=3)), keras.losses.CTC)
    assert isinstance(keras_loss("mse"), keras.losses.MeanSquaredError)
    output = tf.constant([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    # The likes are 3 apart, the unlike one 4 and 5 away: 3 - 4 + 1.5, and 3 - 5 + 1.5, which is below 0.
    triplet = keras_loss(Triplet(margin=1.5))
    assert np.allclose(triplet(tf.constant([0, 0, 1]), output), [0.5, 0.0, 0.0])
