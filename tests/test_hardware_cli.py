"""`hedgerow targets`, `check`, `inspect` and `bench` as a user calls them: output, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from typer.testing import CliRunner, Result

from hedgerow.cli import app
from hedgerow.hardware.benchmark import RUNTIMES
from hedgerow.hardware.runtime import installed
from hedgerow.models.trainable.conversion import convert
from hedgerow.quantization import Converter

BOARD = """
name = "my-board"
title = "My board"
runtimes = ["LiteRT"]
kinds = ["int8"]

[memory]
weights_kib = 1

[cpu]
operators = ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
"""


@pytest.fixture(scope="module")
def folder(converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).normal(size=(20, 8, 8, 1)).astype(np.float32)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    (folder / "int8.tflite").write_bytes(converter.convert(network, "int8", calibration=images))
    (folder / "float32.tflite").write_bytes(converter.convert(network, "float32"))
    np.savez(folder / "images.npz", images)

    def add(x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": tf.nn.relu(x) + y}

    specs = {"x": tf.TensorSpec([None, 5], name="x"), "y": tf.TensorSpec([None, None], name="y")}
    function = tf.function(add, autograph=False).get_concrete_function(**specs)
    (folder / "open.tflite").write_bytes(convert(tf.Module(), {"f": function}))
    (folder / "cut.tflite").write_bytes((folder / "int8.tflite").read_bytes()[:700])
    (folder / "my-board.toml").write_text(BOARD)
    return folder


def hedgerow(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_shows_every_operator_and_leaves_with_0_only_if_all_is_well(folder: Path) -> None:
    good = hedgerow("check", folder / "int8.tflite", "--target", "linux-x86-64-litert")
    assert good.exit_code == 0, good.output
    for word in (
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
        "SOFTMAX",
        "It runs as asked",
        "run here on litert",
    ):
        assert word in good.output
    bad = hedgerow("check", folder / "float32.tflite", "--target", "ethos-u55-128", "--rules")
    assert bad.exit_code == 1
    assert "First off: operator 0, CONV_2D, runs on CPU" in bad.output
    assert "Convert with one of the recipes int8." in bad.output
    both = hedgerow("check", folder / "int8.tflite", "--target", "linux-x86-64-tflite",
                    "--target", "android-gpu", "--rules", "--json")  # fmt: skip
    assert both.exit_code == 1
    assert [one["runs_as_asked"] for one in json.loads(both.stdout)] == [True, False]


def test_a_board_of_ones_own_is_checked_by_path(folder: Path) -> None:
    found = hedgerow("check", folder / "int8.tflite", "--target", folder / "my-board.toml", "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert report["target"] == "my-board"
    assert report["first_fallback"] == 3
    assert report["operators"][3]["reason"] == "it does not have SOFTMAX"
    assert report["weights"]["fit"] is False
    assert report["advice"]
    shown = hedgerow("targets", folder / "my-board.toml")
    assert shown.exit_code == 0
    assert "CONV_2D, RESHAPE, FULLY_CONNECTED" in shown.output


def test_targets_are_listed_and_shown_in_full() -> None:
    listed = json.loads(hedgerow("targets", "--json").stdout)
    assert len(listed) >= 24
    assert "litert-aot" in hedgerow("targets").output
    shown = hedgerow("targets", "coral-edge-tpu").output
    assert "coral.ai" in shown
    assert json.loads(hedgerow("targets", "coral-edge-tpu", "--json").stdout)["name"] == "coral-edge-tpu"


def test_inspect_prints_each_signature(folder: Path) -> None:
    shown = hedgerow("inspect", folder / "int8.tflite")
    assert shown.exit_code == 0
    # 6x6x4 products of 3x3, and 144 by 3.
    assert "3,459 operations" in shown.output
    report = json.loads(hedgerow("inspect", folder / "int8.tflite", "--json").stdout)
    cost = report["costs"]["signatures"]["infer"]
    assert cost["flops"] == 2 * (6 * 6 * 4 * 9 + 144 * 3) + 3
    assert cost["operators"] == {"CONV_2D": 1, "FULLY_CONNECTED": 1, "RESHAPE": 1, "SOFTMAX": 1}


def test_bench_compares_files_on_every_runtime(folder: Path) -> None:
    files = (folder / "float32.tflite", folder / "int8.tflite")
    found = hedgerow("bench", *files, "--runs", 4, "--warm-up", 1, "--data", folder / "images.npz", "--json")
    assert found.exit_code == 0, found.output
    results = json.loads(found.stdout)
    assert len(results) == 2 * len([one for one in RUNTIMES if one in installed()])
    assert {one["file"] for one in results} == {"float32.tflite", "int8.tflite"}
    assert {(one["runs"], one["inputs"]) for one in results} == {(4, "given")}
    shown = hedgerow("bench", *files, "--runs", 2, "--runtime", "litert", "--threads", 2)
    assert "2 threads, random inputs" in shown.output


def test_open_sizes_and_several_inputs_are_measured(folder: Path) -> None:
    found = hedgerow("bench", folder / "open.tflite", "--runs", 2, "--runtime", "litert", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)[0]["p50_ms"] > 0
    assert hedgerow("inspect", folder / "open.tflite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("inspect", "cut.tflite"), 41, "'cut.tflite' of 700 bytes"),
        (("bench", "cut.tflite"), 41, "'cut.tflite'"),
        (("check", "cut.tflite", "--target", "cortex-m4"), 41, "'cut.tflite'"),
        (("check", "none.tflite", "--target", "cortex-m4"), 41, "No such file"),
        (("check", "int8.tflite", "--target", "toaster"), 44, "'toaster'"),
        (("check", "int8.tflite", "--target", "none.toml"), 44, "No such file"),
        (("bench", "int8.tflite", "--runtime", "toaster"), 2, "'toaster'"),
        (("bench", "int8.tflite", "--data", "my-board.toml"), 1, "my-board.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_one_line_and_an_exit_code(
    arguments: tuple[str, ...], exit_code: int, words: str, folder: Path
) -> None:
    command = [sys.executable, "-m", "hedgerow", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
