"""What an export refuses, and what a device refuses, with a message that names it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hedgerow import errors
from hedgerow.edge import Trainer
from hedgerow.models import export_trainable
from hedgerow.models.trainable.selection import select

layers = keras.layers


def classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", name="top"),
        ]
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("safety") / "model.tflite"
    variants = {"train_head": "head", "train_bias": "bias"}
    return export_trainable(classifier(), path, batch_size=4, variants=variants, proximal=True).path


@pytest.fixture
def trainer(file: Path):
    with Trainer(file, runtime="litert") as loaded:
        yield loaded


def examples(rows: int = 10) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 6, 6, 1)).astype(np.float32)
    return x, generator.integers(0, 3, rows).astype(np.int32)


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {path.split("/", 1)[1] for path in before if not np.array_equal(before[path], after[path])}


def test_selections_name_weights() -> None:
    model = classifier()

    def names(selection: str | list[str]) -> list[str]:
        return [weight.path.split("/", 1)[1] for weight in select(model, selection)]

    assert names("head") == ["top/kernel", "top/bias"]
    assert names("bias") == ["stem/bias", "norm/beta", "top/bias"]
    assert names("stem") == ["stem/kernel", "stem/bias"]
    assert names(["*/kernel"]) == ["stem/kernel", "top/kernel"]
    with pytest.raises(errors.SelectionError, match=r"nothing_like_it.*stem/kernel"):
        select(model, "nothing_like_it")


def test_variants_change_their_weights_only(trainer: Trainer) -> None:
    x, y = examples()
    start = trainer.get_weights()
    trainer.fit(x, y, learning_rate=0.1, variant="train_head")
    head = trainer.get_weights()
    assert changed(start, head) == {"top/kernel", "top/bias"}
    trainer.fit(x, y, learning_rate=0.1, variant="train_bias")
    assert changed(head, trainer.get_weights()) == {"stem/bias", "norm/beta", "top/bias"}
    trainer.fit(x, y, learning_rate=0.1)
    everything = {"stem/kernel", "stem/bias", "norm/gamma", "norm/beta", "norm/moving_mean"}
    everything |= {"norm/moving_variance", "top/kernel", "top/bias"}
    assert changed(start, trainer.get_weights()) == everything


def test_a_head_needs_less_than_everything(file: Path) -> None:
    from hedgerow.hardware.inspection import inspect_file

    signatures = inspect_file(file).signatures
    assert signatures["train_head"].flops < signatures["train"].flops
    assert signatures["train_head"].peak_bytes <= signatures["train"].peak_bytes
    assert "TRANSPOSE_CONV" not in signatures["train_head"].operators
    assert signatures["get_weights"].weight_bytes == sum(w.numpy().nbytes for w in classifier().weights)


def test_a_step_that_is_not_finite_is_undone_and_reported(trainer: Trainer) -> None:
    x, y = examples()
    before = trainer.get_weights()
    result = trainer.fit(np.sign(x) * np.float32(3e38), y, learning_rate=0.1)
    assert result.undone == result.steps > 0
    assert changed(before, trainer.get_weights()) == set()


def test_dropout_follows_the_seed(trainer: Trainer) -> None:
    x, y = examples()
    start = trainer.get_weights()

    def after(seed: int) -> np.ndarray:
        trainer.set_weights(start)
        trainer.fit(x, y, learning_rate=0.1, seed=seed, shuffle=False)
        return trainer.get_weights()[next(path for path in start if path.endswith("top/kernel"))]

    assert np.array_equal(after(1), after(1))
    assert not np.array_equal(after(1), after(2))


def test_a_short_last_batch_counts_its_own_rows(trainer: Trainer) -> None:
    x, y = examples(9)
    whole = trainer.evaluate(x, y)
    output = trainer.predict(x)
    assert whole["num_examples"] == 9
    assert output.shape == (9, 3)
    expected = -np.log(output[np.arange(9), y]).mean()
    np.testing.assert_allclose(whole["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(whole["accuracy"], (output.argmax(1) == y).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :5], y), "6, 6, 1.*10, 5, 6, 1"),
        (lambda x, y: (x.astype(str), y), "float32.*<U"),
        (lambda x, y: (np.where(x > 2, np.nan, x), y), "NaN"),
        (lambda x, y: (x, y + 3), "0 to 2.*to 5"),
        (lambda x, y: (x, y.astype(np.float32)), "int32.*float32"),
        (lambda x, y: (x, y[:4]), "same number"),
        (lambda x, y: (x[:0], y[:0]), "at least one"),
        (lambda x, y: ([x, x], y), "x"),
    ],
)
def test_wrong_examples_are_named(trainer: Trainer, change, message: str) -> None:
    x, y = change(*examples())
    with pytest.raises(errors.TrainingDataError, match=message):
        trainer.fit(x, y)


def test_wrong_weights_are_named(trainer: Trainer) -> None:
    weights = trainer.get_weights()
    path = next(iter(weights))
    with pytest.raises(errors.TensorError, match=path):
        trainer.set_weights(weights | {path: weights[path][:1]})
    with pytest.raises(errors.TensorError, match=path):
        trainer.set_weights(weights | {path: weights[path].astype(np.float64)})
    with pytest.raises(errors.TensorError, match=r"unknown.*other"):
        trainer.set_weights(weights | {"other": weights[path]})
    with pytest.raises(errors.TensorError, match=f"missing.*{path}"):
        trainer.set_weights({name: value for name, value in weights.items() if name != path})


def test_a_wrong_batch_is_named(trainer: Trainer) -> None:
    with pytest.raises(errors.TensorError, match=r"'x' of 'infer'.*4, 6, 6, 1.*3, 6, 6, 1"):
        trainer._interpreter.run("infer", {"x": np.zeros((3, 6, 6, 1), np.float32)})


def test_an_uncovered_operator_names_its_layer(tmp_path: Path) -> None:
    inputs = keras.Input((4, 4))
    outputs = layers.Lambda(lambda x: tf.linalg.inv(x), name="inverse")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(outputs)))
    with pytest.raises(errors.UncoveredOperatorError, match=r"'inverse'.*MatrixInverse"):
        export_trainable(model, tmp_path / "model.tflite", loss="mse")


def test_an_open_size_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, 3)), layers.GlobalAveragePooling1D(), layers.Dense(2)])
    with pytest.raises(errors.DynamicShapeError, match="None, 3"):
        export_trainable(model, tmp_path / "model.tflite", loss="mse")


def test_a_file_that_does_not_train_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model at all")
    with pytest.raises(errors.ModelFileError):
        Trainer(tmp_path / "model.tflite", runtime="litert")
    with pytest.raises(errors.ModelFileError, match="does not exist"):
        Trainer(tmp_path / "none.tflite", runtime="litert")


def test_the_file_is_little_more_than_the_weights(file: Path, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((64,)), layers.Dense(512, activation="relu"), layers.Dense(10)])
    info = export_trainable(
        model,
        tmp_path / "adam.tflite",
        loss=keras.losses.SparseCategoricalCrossentropy(True),
        optimizer="adam",
    )
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    assert info.size_bytes <= 1.3 * weights + 100_000
