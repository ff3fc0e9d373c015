"""`hedgerow train`: a user's own function and data, killed and resumed, on several replicas and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from hedgerow.broker import free_port

FUNCTION = """\
import keras


def leaves():
    return keras.Sequential(
        [
            keras.Input((24, 24, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
"""
TREES = ("ash", "beech", "oak")


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """An empty directory but for `garden.py` and a folder of pictures with a folder for each class."""
    random = np.random.default_rng(0)
    (tmp_path / "garden.py").write_text(FUNCTION)
    boxes = {"ash": np.s_[4:20, 10:14], "beech": np.s_[10:14, 4:20], "oak": np.s_[7:17, 7:17]}
    for tree in TREES:
        folder = tmp_path / "leaves" / tree
        folder.mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 60, (24, 24))
            pixels[boxes[tree]] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "hedgerow", "train", "garden:leaves", "--data", "leaves", *options]


def train(garden: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options),
        cwd=garden,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def weights(path: Path) -> list[np.ndarray]:
    found: list[np.ndarray] = keras.saving.load_model(path).get_weights()
    return found


def largest_difference(one: Path, other: Path) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.slow
def test_the_readmes_example(garden: Path) -> None:
    done = train(garden, "--augment", "--patience", "20", "--epochs", "40", "--out", "leaves.keras", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["metrics"]["accuracy"] > 0.9
    assert report["train_examples"] + report["held_out_examples"] == 72
    folder = garden / "leaves.training"
    for name in ("curves", "filters", "feature-maps", "confusion"):
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    assert list((folder / "summaries" / "validation").iterdir())
    assert json.loads((folder / "report.json").read_text()) == report
    model = keras.saving.load_model(garden / "leaves.keras")
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_the_readme_shows_this_example() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert FUNCTION in readme
    example = "--augment --patience 20 --epochs 40 --out leaves.keras"
    assert f"hedgerow train garden:leaves --data leaves {example}\n" in readme


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(garden: Path) -> None:
    options = ("--epochs", "8", "--augment", "--patience", "7")
    assert train(garden, *options, "--out", "whole.keras").returncode == 0
    process = subprocess.Popen(
        command(*options, "--out", "killed.keras", "--resume"), cwd=garden, stderr=subprocess.DEVNULL
    )
    history = garden / "killed.training" / "backup" / "history.json"
    deadline = time.monotonic() + 200
    while not (history.is_file() and len(json.loads(history.read_text())) >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (garden / "killed.keras").exists()
    resumed = train(garden, *options, "--out", "killed.keras", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/8" not in resumed.stderr
    assert largest_difference(garden / "whole.keras", garden / "killed.keras") == 0
    reports = [
        json.loads((garden / f"{name}.training" / "report.json").read_text()) for name in ("whole", "killed")
    ]
    losses = [[epoch["loss"] for epoch in report["history"]] for report in reports]
    assert losses[0] == losses[1]
    assert len(losses[0]) == reports[0]["epochs"]
    # Other options are not quietly taken for the same training.
    refused = train(garden, "--epochs", "9", "--out", "killed.keras", "--resume")
    assert refused.returncode == 2
    assert "which had" in refused.stderr


@pytest.mark.slow
def test_two_replicas_and_two_workers_train_what_one_does(garden: Path) -> None:
    # SGD, whose steps are as alike as their gradients; the dropout of replicas draws numbers of its own.
    (garden / "garden.py").write_text(FUNCTION.replace("Dropout(0.1)", "Dropout(0.0)"))
    # 48 examples make whole batches; several replicas leave out a shorter one.
    options = ("--epochs", "2", "--batch-size", "8", "--optimizer", "sgd", "--learning-rate", "0.05")
    options += ("--held-out", "0.3333", "--clip", "0")
    assert train(garden, *options, "--out", "one.keras").returncode == 0
    mirrored = train(garden, *options, "--out", "mirrored.keras", "--gpus", "cpu:2")
    assert mirrored.returncode == 0, mirrored.stderr
    assert "2 replicas" in mirrored.stderr
    assert largest_difference(garden / "one.keras", garden / "mirrored.keras") < 1e-4

    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                command(*options, "--out", "workers.keras"),
                cwd=garden,
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert "2 replicas in 2 processes" in said[0]
    assert largest_difference(garden / "mirrored.keras", garden / "workers.keras") < 1e-4


@pytest.mark.slow
def test_mixed_precision_leaves_a_float32_model(garden: Path) -> None:
    done = train(garden, "--mixed-precision", "--epochs", "2", "--out", "mixed.keras")
    assert done.returncode == 0, done.stderr
    model = keras.saving.load_model(garden / "mixed.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--gpus", "all"), 2, "which has 0; received 'all'"),
        (("--optimizer", "adagrad"), 2, "received 'adagrad' and 'cosine'"),
        (("--out", "model.h5"), 2, "end in .keras"),
    ],
)
def test_what_cannot_be_done_is_said(garden: Path, options: tuple[str, ...], code: int, message: str) -> None:
    done = train(garden, *options)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
