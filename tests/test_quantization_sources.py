"""Models that are not Keras's own and data in every form: what is read, what is refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from hedgerow.errors import (
    CalibrationError,
    CustomOperatorError,
    DataShapeError,
    DataSourceError,
    DynamicShapeError,
    EmptyClassError,
    HedgerowError,
    LabelsError,
    ModelFileError,
    NotFiniteError,
    QuantizationError,
    SourceError,
    UnsupportedLayerError,
)
from hedgerow.hardware.verification import verify
from hedgerow.quantization import Converter, Gate, compare
from hedgerow.quantization.example_tables import read_table
from hedgerow.quantization.golden import write_golden
from hedgerow.quantization.loading import load_examples, load_model

RNG = np.random.default_rng(0)
EXAMPLES = RNG.normal(size=(60, 12, 6)).astype(np.float32)
CLASSES = RNG.integers(0, 5, size=60)
# The largest distance from Keras as a share of the outputs' range.
LIMITS = {"float32": 1e-6, "float16": 2e-3, "dynamic": 0.02, "int8": 0.03, "mixed": 0.03, "int16x8": 0.015}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12, 6)),
            layers.Conv1D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def folder(network: keras.Model, converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a SavedModel, `saved`, and as a `.tflite` that others could have made."""
    folder = tmp_path_factory.mktemp("foreign")
    network.export(folder / "saved", verbose=False)
    (folder / "float.tflite").write_bytes(converter.convert(network, "float32"))
    (folder / "int8.tflite").write_bytes(converter.convert(network, "int8", calibration=EXAMPLES))
    recurrent = keras.Sequential([keras.Input((12, 6)), layers.LSTM(8), layers.Dense(5)])
    recurrent.export(folder / "loop", verbose=False)
    (folder / "lstm.tflite").write_bytes(converter.convert(recurrent, "float32"))
    return folder


@pytest.mark.parametrize("source", ["saved", "float.tflite"])
def test_a_foreign_model_answers_and_converts_like_the_keras_one(
    source: str, network: keras.Model, folder: Path, converter: Converter
) -> None:
    foreign = load_model(str(folder / source))
    assert foreign.input_shape == (None, 12, 6) and foreign.output_shape == (None, 5)
    expected = np.asarray(network(EXAMPLES))
    np.testing.assert_allclose(np.asarray(foreign(EXAMPLES)), expected, atol=1e-6)
    files = {name: converter.convert(foreign, name, calibration=EXAMPLES) for name in ("float32", "int8")}
    for name, score in compare(foreign, files, EXAMPLES, CLASSES).files.items():
        assert score.largest_difference <= LIMITS[name] * np.ptp(expected)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", LIMITS)
@pytest.mark.parametrize("source", ["saved", "float.tflite", "lstm.tflite"])
def test_every_recipe_of_a_foreign_model_runs_on_both_runtimes(
    source: str, recipe: str, folder: Path, converter: Converter, tmp_path: Path
) -> None:
    foreign = load_model(folder / source)
    path = tmp_path / f"{recipe}.tflite"
    path.write_bytes(converter.convert(foreign, recipe, calibration=EXAMPLES))
    difference = compare(foreign, {recipe: path}, EXAMPLES, CLASSES).files[recipe].largest_difference
    assert difference <= LIMITS[recipe] * np.ptp(np.asarray(foreign(EXAMPLES)))
    write_golden(tmp_path / "golden.npz", {recipe: path}, EXAMPLES)
    for runtime in ("litert", "tflite"):
        assert verify(path, tmp_path / "golden.npz", runtime=runtime).passed


def test_what_a_foreign_model_cannot_have_is_said(folder: Path, converter: Converter) -> None:
    foreign = load_model(folder / "float.tflite")
    gate = Gate(
        foreign,
        calibration=EXAMPLES[:30],
        test=(EXAMPLES[30:], CLASSES[30:]),
        training=(EXAMPLES[:30], CLASSES[:30]),
        converter=converter,
    )
    gate.climb(("int8-tuned", "float32"))
    assert "a Keras model with Dense or convolution layers" in gate.rungs[0].reason


def custom_operator() -> bytes:
    function = tf.function(tf.math.erfinv, input_signature=[tf.TensorSpec([1, 4])])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.allow_custom_ops = True
    return bytes(converter.convert())


def open_size() -> bytes:
    function = tf.function(tf.math.tanh, input_signature=[tf.TensorSpec([1, None])])
    return bytes(
        tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    )


def two_inputs(path: Path) -> None:
    function = tf.function(
        lambda a, b: {"sum": a + b}, input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2])]
    )
    module = tf.Module()
    module.function = function
    tf.saved_model.save(module, str(path), signatures={"serving_default": function.get_concrete_function()})


def test_models_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "float.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "custom.tflite").write_bytes(custom_operator())
    (tmp_path / "open.tflite").write_bytes(open_size())
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    network = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    network.save(tmp_path / "whole.keras")
    data = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(data[: len(data) // 2])
    (tmp_path / "words.txt").write_text("a model")
    (tmp_path / "hollow").mkdir()
    two_inputs(tmp_path / "two")
    expected: dict[str, tuple[type[HedgerowError], str]] = {
        "cut.tflite": (ModelFileError, "TFLite"),
        "empty.tflite": (ModelFileError, "TFLite"),
        "custom.tflite": (CustomOperatorError, "Erfinv"),
        "open.tflite": (DynamicShapeError, r"\[1, -1\]"),
        "broken.keras": (SourceError, "7 other bytes"),
        "cut.keras": (SourceError, "cut.keras"),
        "words.txt": (SourceError, "words.txt"),
        "hollow": (SourceError, "SavedModel"),
        "two": (QuantizationError, "one input"),
    }
    for name, (error, message) in expected.items():
        with pytest.raises(error, match=message) as raised:
            load_model(tmp_path / name)
        assert type(raised.value) is error, name
    with pytest.raises(ModelFileError, match=r"float \.tflite"):
        load_model(folder / "int8.tflite")
    with pytest.raises(UnsupportedLayerError, match="loop"):
        load_model(folder / "loop")


def arrays(**changed: np.ndarray) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        given = {"x": EXAMPLES, "y": CLASSES} | changed
        np.savez(folder / "data.npz", **given)
        return str(folder / "data.npz")

    return write


def cut(folder: Path) -> str:
    whole = Path(arrays()(folder))
    whole.write_bytes(whole.read_bytes()[:5000])
    return str(whole)


def with_nan() -> np.ndarray:
    examples = EXAMPLES.copy()
    examples[17, 3, 2] = np.nan
    return examples


FIVE = np.array(list("abcde"))
REFUSED: dict[str, tuple[Callable[[Path], str], type[HedgerowError], str]] = {
    "truncated": (cut, DataSourceError, "data.npz"),
    "missing": (lambda folder: str(folder / "none.npz"), DataSourceError, "none.npz"),
    "unknown": (lambda folder: str(folder / "data.hdf5"), DataSourceError, "none of these"),
    "no examples": (arrays(x=EXAMPLES[:0], y=CLASSES[:0]), CalibrationError, "received none"),
    "two examples": (arrays(x=EXAMPLES[:2], y=CLASSES[:2]), CalibrationError, "at least 4"),
    "wrong shape": (arrays(x=EXAMPLES[:, :5]), DataShapeError, r"\(60, 5, 6\)"),
    "not finite": (arrays(x=with_nan()), NotFiniteError, "example 17"),
    "too few answers": (arrays(y=CLASSES[:-1]), LabelsError, "60 and 59"),
    "unknown class": (arrays(y=CLASSES + 1), LabelsError, "0 to 4"),
    "words": (arrays(y=FIVE[CLASSES]), LabelsError, "<U1"),
    "nameless class": (arrays(labels=FIVE[:3]), LabelsError, "0 to 2"),
    "empty class": (arrays(y=np.minimum(CLASSES, 3), labels=FIVE), EmptyClassError, "none of e"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_do_not_fit_are_refused(name: str, network: keras.Model, tmp_path: Path) -> None:
    write, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as raised:
        load_examples(write(tmp_path), network)
    assert type(raised.value) is error


def test_arrays_and_functions_are_taken_too(network: keras.Model) -> None:
    examples = load_examples((EXAMPLES, CLASSES, list("abcde")), network)
    assert examples.labels == tuple("abcde") and len(examples.test) == 30
    with pytest.raises(DataSourceError, match="received dict"):
        load_examples("builtins:dict", network)


def test_a_parquet_table_is_read_like_a_csv_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = RNG.normal(size=(40, 2)).astype(np.float32)
    labels = ["walk"] * 25 + ["run"] * 15
    lines = [f"{a},{label},{b}" for (a, b), label in zip(rows, labels, strict=True)]
    (tmp_path / "data.csv").write_text("ax,label,ay\n" + "\n".join(lines) + "\n")
    table = pyarrow.table({"ax": rows[:, 0], "label": labels, "ay": rows[:, 1]})
    parquet.write_table(table, tmp_path / "data.parquet")
    expected = read_table(tmp_path / "data.csv", (5, 2), length=5)
    assert expected[0].shape == (8, 5, 2) and expected[2] == ("run", "walk")
    found = read_table(tmp_path / "data.parquet", (5, 2))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(DataShapeError, match=r"--length of 5.*received 7"):
        read_table(tmp_path / "data.parquet", (5, 2), length=7)
    whole = (tmp_path / "data.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataSourceError, match=r"cut\.parquet"):
        read_table(tmp_path / "cut.parquet", (5, 2))
    parquet.write_table(table.drop_columns(["label"]), tmp_path / "nameless.parquet")
    with pytest.raises(DataSourceError, match="label"):
        read_table(tmp_path / "nameless.parquet", (5, 2))


def test_a_folder_without_files_of_a_class_is_refused(tmp_path: Path) -> None:
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(DataSourceError, match="one folder per class"):
        load_examples(str(tmp_path), network)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
    keras.utils.save_img(tmp_path / "cat" / "1.png", np.zeros((4, 4, 3)), scale=False)
    with pytest.raises(EmptyClassError, match="none in dog"):
        load_examples(str(tmp_path), network)
    (tmp_path / "dog" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataSourceError, match=r"1\.png"):
        load_examples(str(tmp_path), network)
