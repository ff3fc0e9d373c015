"""`hedgerow convert` and its sisters from end to end, on real digits, and every way to misuse them."""

from __future__ import annotations

import inspect
import json
import re
import wave
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from typer.testing import CliRunner

import hedgerow
from hedgerow import cli, errors
from hedgerow.conversion import run_conversion
from hedgerow.conversion_options import ConversionOptions
from hedgerow.errors import CalibrationError, GateError, SourceError, TargetError, UsageError
from hedgerow.hardware import targets
from hedgerow.models import datasets
from hedgerow.quantization import Converter, Gate
from hedgerow.quantization.example_files import read_folder
from hedgerow.quantization.example_tables import read_table
from hedgerow.quantization.gate import LADDER, ladder_of
from hedgerow.quantization.loading import load_examples, load_model, split

runner = CliRunner()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ConvNet as a .keras file, and digits that it has not seen as an .npz."""
    folder = tmp_path_factory.mktemp("trained")
    digits = datasets.mnist()
    order = np.random.default_rng(0).permutation(len(digits))
    train, held_out = digits.take(order[:1500]), digits.take(order[1500:2300])
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
        name="Digits_Net",
    )
    network.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    network.fit(train.x, train.y, epochs=3, batch_size=32, verbose=0)
    network.save(folder / "digits.keras")
    np.savez(folder / "digits.npz", x=held_out.x, y=held_out.y, labels=np.array(held_out.labels))
    return folder / "digits.keras", folder / "digits.npz"


@pytest.mark.slow
def test_a_model_becomes_a_release_for_three_targets(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = trained
    chosen = ("ethos-u55-128", "raspberry-pi-zero-2", "android-gpu")
    options = [part for target in chosen for part in ("--target", target)]
    out = tmp_path / "release"
    done = runner.invoke(
        cli.app, ["convert", str(model), "--data", str(data), "--out", str(out), "--json", *options]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    folder = out / "digits-net-1.0.0"
    assert report["folder"] == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        "int8.tflite",
        "float16.tflite",
        "ethos-u55-128.tflite",
        "golden.npz",
        "manifest.json",
    }
    assert {rung["recipe"]: rung["passed"] for rung in report["rungs"]} == {"int8": True, "float16": True}
    assert all(rung["reference"] > 0.8 and abs(rung["drop"]) <= 0.01 for rung in report["rungs"])
    files = {target["target"]: target["file"] for target in report["targets"]}
    assert files == {
        "ethos-u55-128": "ethos-u55-128.tflite",
        "raspberry-pi-zero-2": "int8.tflite",
        "android-gpu": "float16.tflite",
    }
    assert all(target["runs_as_asked"] for target in report["targets"])
    assert set(report["verifications"]) == {"int8.tflite", "float16.tflite"}
    for verified in report["verifications"].values():
        assert {"tflite", "litert"} <= {one["runtime"] for one in verified}
    assert all(one["passed"] for found in report["verifications"].values() for one in found)
    assert json.loads((out / "report.json").read_text()) == report
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4 and "ethos-u55-128" in page and "<script" not in page
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["labels"] == [str(digit) for digit in range(10)]

    checked = runner.invoke(cli.app, ["check", str(folder / "int8.tflite"), "--target", "ethos-u55-128"])
    assert checked.exit_code == 0 and "It runs as asked" in checked.output
    checked = runner.invoke(cli.app, ["check", str(folder / "int8.tflite"), "--target", "android-gpu"])
    assert checked.exit_code == 1 and "CONV_2D" in checked.output
    seen = runner.invoke(cli.app, ["inspect", str(folder / "int8.tflite"), "--json"])
    assert json.loads(seen.stdout)["graphs"]["signatures"] == {"infer": 0}
    measured = runner.invoke(cli.app, ["bench", str(folder / "int8.tflite"), "--runs", "5", "--json"])
    assert {one["runtime"].split()[0] for one in json.loads(measured.stdout)} == {"tflite", "litert"}


def test_every_target_has_a_ladder() -> None:
    assert all(ladder_of(targets.load(name)) for name in targets.names())
    assert ladder_of(targets.load("ethos-u55-128")) == ("int8", "int8-ranges", "mixed", "int8-tuned")
    assert ladder_of(targets.load("android-gpu")) == ("float16", "float32")
    assert ladder_of(targets.load("linux-x86-64-litert")) == LADDER


def test_the_gate_climbs_until_a_recipe_passes(converter: Converter) -> None:
    # Outputs of classes 0 and 1 differ by a hundredth of the range: int8 cannot tell them apart, int16 can.
    x = np.random.default_rng(0).uniform(-1, 1, size=(300, 1)).astype(np.float32)
    network = keras.Sequential([keras.Input((1,)), layers.Dense(3)])
    network.layers[0].kernel.assign([[1e-2, -1e-2, 0.0]])
    network.layers[0].bias.assign([0.0, 0.0, -1.0])
    y = np.where(x[:, 0] > 0, 0, 1)
    gate = Gate(network, calibration=x[:100], test=(x[100:], y[100:]), converter=converter)
    rung = gate.climb()
    assert [(tried.recipe, tried.passed) for tried in gate.rungs] == [
        ("int8", False),
        ("int8-ranges", False),
        ("mixed", False),
        ("int16x8", True),
    ]
    assert "2 to 64 operators" in gate.rungs[2].reason
    assert rung.reference == 1.0 and rung.drop is not None and rung.drop <= 0.01
    assert gate.climb(("int16x8",)) is rung
    with pytest.raises(GateError, match=r"for a-chip.*int8 0\.\d+ \(drop 0\.\d+\)"):
        gate.climb(("int8",), target="a-chip")


def test_a_layer_without_int8_is_a_rung_that_fails(converter: Converter) -> None:
    x = np.random.default_rng(0).normal(size=(20, 4, 4, 4, 1)).astype(np.float32)
    network = keras.Sequential(
        [keras.Input((4, 4, 4, 1)), layers.Conv3D(2, 3), layers.Flatten(), layers.Dense(2)]
    )
    gate = Gate(network, calibration=x[:10], test=(x[10:], np.zeros(10, np.int64)), converter=converter)
    assert gate.climb().recipe == "float16"
    assert "CONV_3D" in gate.rungs[0].reason


def test_examples_are_split_without_overlap() -> None:
    rng = np.random.default_rng(0)
    unique = rng.normal(size=(60, 3)).astype(np.float32)
    x = np.concatenate([unique, unique[:30]])
    examples = split(x, np.zeros(90, np.int64), (), seed=1)
    sides = [{row.tobytes() for row in side} for side in (examples.calibration, examples.test)]
    assert len(sides[0]) == 30 and len(sides[1]) == 30
    assert not sides[0] & sides[1]
    assert not {row.tobytes() for row in examples.training[0]} & sides[1]
    again = split(x, np.zeros(90, np.int64), (), seed=1)
    np.testing.assert_array_equal(examples.calibration, again.calibration)


@pytest.mark.parametrize(
    ("y", "labels", "message"),
    [
        (np.zeros(9, np.int64), (), "10 and 9"),
        (np.full(10, 2), ("a", "b"), "classes 0 to 1"),
        (np.zeros(10, np.int64), ("a", "b"), "none of b"),
    ],
)
def test_answers_must_fit(y: np.ndarray, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        split(np.arange(10, dtype=np.float32).reshape(10, 1), y, labels, seed=0)


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    for label, value in (("black", 0), ("white", 255)):
        (tmp_path / label).mkdir()
        for number in range(6):
            image = np.full((8, 8, 3), abs(value - number), np.uint8)
            keras.utils.save_img(tmp_path / label / f"{number}.png", image, scale=False)
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    examples = load_examples(str(tmp_path), network)
    assert examples.labels == ("black", "white")
    assert examples.test.shape[1:] == (4, 4, 1)
    np.testing.assert_array_equal(examples.test.mean(axis=(1, 2, 3)) > 0.5, examples.answers == 1)


def test_a_folder_of_sounds_is_read(tmp_path: Path) -> None:
    for label, level in (("loud", 16384), ("quiet", 0)):
        (tmp_path / label).mkdir()
        for number in range(4):
            with wave.open(str(tmp_path / label / f"{number}.wav"), "wb") as file:
                file.setnchannels(2)
                file.setsampwidth(2)
                file.setframerate(8000)
                # The second channel is noise that must not be heard.
                file.writeframes(np.array([[level + number, 77]] * 5, "<i2").tobytes())
    x, y, labels = read_folder(tmp_path, (8, 1))
    assert labels == ("loud", "quiet") and list(y) == [0] * 4 + [1] * 4
    assert x.shape == (8, 8, 1)
    np.testing.assert_allclose(x[1, :, 0], [(16384 + 1) / 32768] * 5 + [0] * 3)


def test_a_table_is_cut_into_windows_of_one_class(tmp_path: Path) -> None:
    rows = [
        (0, "walk"),
        (1, "walk"),
        (2, "run"),
        (3, "walk"),
        (4, "walk"),
        (5, "walk"),
        (6, "walk"),
        (7, "run"),
    ]
    path = tmp_path / "steps.csv"
    path.write_text("ax,label,ay\n" + "".join(f"{i},{label},{10 * i}\n" for i, label in rows))
    x, y, labels = read_table(path, (2, 2))
    assert labels == ("run", "walk")
    np.testing.assert_array_equal(x, [[[0, 0], [1, 10]], [[3, 30], [4, 40]], [[5, 50], [6, 60]]])
    np.testing.assert_array_equal(y, [1, 1, 1])
    assert len(read_table(path, (2,))[0]) == 8
    for shape, message in (((2, 3), "3 features"), ((5, 2), "5 rows of one class")):
        with pytest.raises(CalibrationError, match=message):
            read_table(path, shape)
    path.write_text("ax,ay\n1,2\n")
    with pytest.raises(CalibrationError, match="column 'label'"):
        read_table(path, (1, 2))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no-such-model", SourceError, "none of these"),
        ("no.such.module:function", UsageError, "cannot find"),
        ("math:pi", UsageError, "received float"),
        ("math:no_such_name", UsageError, "no_such_name"),
        ("builtins:dict", SourceError, "received dict"),
    ],
)
def test_what_is_no_model_is_said(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(source)


def test_an_unknown_target_is_said_before_anything_is_done(tmp_path: Path) -> None:
    options = ConversionOptions(model="x.keras", data="x.npz", out=tmp_path / "out", targets=("toaster",))
    with pytest.raises(TargetError, match="toaster"):
        run_conversion(options)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that int8 spoils, `model.keras`, its data, and data with faults."""
    folder = tmp_path_factory.mktemp("narrow")
    x = np.random.default_rng(0).uniform(-1, 1, size=(300, 1)).astype(np.float32)
    network = keras.Sequential([keras.Input((1,)), layers.Dense(3)])
    network.layers[0].kernel.assign([[1e-2, -1e-2, 0.0]])
    network.layers[0].bias.assign([0.0, 0.0, -1.0])
    network.save(folder / "model.keras")
    y = np.where(x[:, 0] > 0, 0, 1)
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "nan.npz", x=np.where(x > 0.99, np.nan, x), y=y)
    np.savez(folder / "labels.npz", x=x, y=y + 2)
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:700])
    (folder / "cut.keras").write_bytes((folder / "model.keras").read_bytes()[:700])
    return folder


@pytest.mark.parametrize(
    ("model", "data", "options", "code"),
    [
        pytest.param("model.keras", "good.npz", ("--recipe", "int8"), 36, marks=pytest.mark.slow),
        ("cut.keras", "good.npz", (), 37),
        ("model.keras", "good.npz", ("--recipe", "int7"), 34),
        ("model.keras", "good.npz", ("--target", "toaster"), 44),
        ("model.keras", "cut.npz", (), 90),
        ("model.keras", "nan.npz", (), 92),
        ("model.keras", "labels.npz", (), 93),
        ("model.keras", "good.npz", ("--out", "/proc/here", "--recipe", "float32"), 95),
    ],
)
def test_each_failure_has_an_exit_code_and_leaves_nothing(
    model: str,
    data: str,
    options: tuple[str, ...],
    code: int,
    narrow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(narrow / model), "--data", str(narrow / data), "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr("sys.argv", ["hedgerow", "convert", *words])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    said = capsys.readouterr()
    assert raised.value.code == code, said.err
    assert "error:" in said.err and "Traceback" not in said.err
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))
    if code == 36:
        assert "dropped too much" in said.out and "int8" in said.out


@pytest.mark.slow
def test_python_has_the_command_s_words(narrow: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = hedgerow.convert(
        narrow / "model.keras",
        data=narrow / "good.npz",
        out=tmp_path,
        target=["linux-x86-64-litert"],
        name="narrow",
        version="2.0.1",
        on_stage=said.append,
    )
    assert found.release.folder == tmp_path / "narrow-2.0.1"
    tried = [rung.recipe for rung in found.rungs]
    assert tried == list(LADDER[: len(tried)]) and len(tried) > 3
    chosen = found.report.targets[0]
    assert chosen.file == f"{tried[-1]}.tflite" and chosen.runs_as_asked
    assert said[0] == "loading the model and the data" and said[-1] == "writing the report"
    saved = json.loads((tmp_path / "report.json").read_text())
    assert [rung["passed"] for rung in saved["rungs"]] == [False] * (len(tried) - 1) + [True]
    page = (tmp_path / "report.html").read_text()
    assert "2 to 64 operators" in page and "int8-ranges" in page


def test_the_page_has_the_exit_codes_and_the_recipes() -> None:
    page = (Path(__file__).parent.parent / "docs" / "conversion.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    listed = {int(code) for row in rows for code in row.split(",")}
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass)]
    codes = {one.exit_code for one in classes if issubclass(one, errors.QuantizationError)}
    assert codes - {errors.QuantizationError.exit_code} <= listed
    assert {errors.ReleaseBuildError.exit_code, errors.DiskError.exit_code} <= listed
    assert listed <= {one.exit_code for one in classes if issubclass(one, errors.HedgerowError)}
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)) == set(LADDER)
