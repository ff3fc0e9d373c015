"""The time of a training step: device runtimes against Keras's train_on_batch and PyTorch, one thread each.

Each contender is a process of its own that is told in turn to make a few steps, so that a busy machine
slows all of them alike. Printed are the median step and its ratio to the faster of Keras's two
compilations: above 1 is faster than Keras. PyTorch takes part where --torch-python names an interpreter
that has it.

Usage: python benchmarks/train_step.py [two_conv_cnn resnet8 ds_cnn lstm ...] [--batch-size 16] [--rounds 20]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

SHAPES = {
    "two_conv_cnn": ((28, 28, 1), 10),
    "resnet8": ((32, 32, 3), 10),
    "ds_cnn": ((49, 10, 1), 12),
    "mobilenet_v1": ((96, 96, 3), 2),
    "lstm": ((100, 6), 7),
    "lstm64": ((50, 6), 7),
}
CONTENDERS = ("keras", "keras-jit", "litert", "tflite")
STEPS_A_ROUND = 5


def main() -> None:
    """Runs the contenders and prints a table per model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["two_conv_cnn", "resnet8", "ds_cnn", "lstm"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--torch-python", help="an interpreter with PyTorch")
    arguments = parser.parse_args()
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.tflite"
            export = ["export", name, str(arguments.batch_size), str(file)]
            subprocess.run([sys.executable, __file__, *export], check=True, stderr=subprocess.DEVNULL)
            report(name, medians(name, file, arguments))


def medians(name: str, file: Path, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Median milliseconds of a step and peak MB of memory, by contender."""
    pythons = dict.fromkeys(CONTENDERS, sys.executable)
    if arguments.torch_python:
        pythons["torch"] = arguments.torch_python
    workers = {
        contender: Worker(python, contender, name, arguments.batch_size, file)
        for contender, python in pythons.items()
    }
    try:
        for _ in range(arguments.rounds):
            for worker in workers.values():
                worker.round()
        return {
            contender: (float(np.median(worker.seconds)) * 1e3, worker.peak_mb)
            for contender, worker in workers.items()
            if worker.seconds
        }
    finally:
        for worker in workers.values():
            worker.close()


class Worker:
    """A contender's process."""

    def __init__(self, python: str, contender: str, name: str, batch_size: int, file: Path) -> None:
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        script = __file__ if contender != "torch" else str(Path(__file__).with_name("train_step_torch.py"))
        self.seconds: list[float] = []
        self.peak_mb = 0.0
        self._process = subprocess.Popen(
            [python, script, contender, name, str(batch_size), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def round(self) -> None:
        """Lets the process make a few steps."""
        if self._process.poll() is None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            answer = self._answer()
            self.seconds += answer.get("seconds", [])
            self.peak_mb = answer.get("peak_mb", self.peak_mb)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _answer(self) -> dict[str, object]:
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}


def report(name: str, results: dict[str, tuple[float, float]]) -> None:
    """Prints the table of one model."""
    keras = min(results[contender][0] for contender in ("keras", "keras-jit") if contender in results)
    keras_mb = min(results[contender][1] for contender in ("keras", "keras-jit") if contender in results)
    print(f"\n{name:14s}    step     of Keras   memory")
    for contender, (milliseconds, peak_mb) in results.items():
        ratio = keras / milliseconds
        memory = f"{peak_mb:7.0f} MB ({peak_mb / keras_mb:.2f})"
        print(f"  {contender:12s} {milliseconds:7.2f} ms {ratio:8.2f} x {memory}")


def serve(contender: str, name: str, batch_size: int, file: str) -> None:
    """The contender's side: steps on request, seconds as the answer."""
    import resource

    shape, classes = SHAPES[name]
    generator = np.random.default_rng(0)
    x = generator.random((batch_size, *shape), dtype=np.float32)
    y = generator.integers(0, classes, batch_size).astype(np.int32)
    step = keras_step(contender, name, x, y) if "keras" in contender else device_step(contender, file, x, y)
    for _ in range(5):
        step()
    print("{}", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(STEPS_A_ROUND):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}), flush=True)


def keras_step(contender: str, name: str, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """A step of Keras's train_on_batch."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = build(name)
    model.compile(
        keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy", jit_compile=contender == "keras-jit"
    )
    return lambda: model.train_on_batch(x, y)


def device_step(contender: str, file: str, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """A step of the exported file."""
    from hedgerow.hardware.interpreter import load

    interpreter = load(file, runtime=contender)
    inputs = {"x": x, "y": y, "weight": np.ones(len(y), np.float32), "learning_rate": np.float32(0.001)}
    if "seed" in interpreter.signatures()["train"].inputs:
        inputs["seed"] = np.int32(0)
    return lambda: interpreter.run("train", inputs)


def build(name: str) -> keras.Model:
    """The Keras model of a name."""
    import keras

    from hedgerow.models import architectures

    keras.utils.set_random_seed(0)
    shape, classes = SHAPES[name]
    if name.startswith("lstm"):
        units = int(name.removeprefix("lstm") or 32)
        layers = [
            keras.Input(shape),
            keras.layers.LSTM(units),
            keras.layers.Dense(classes, activation="softmax"),
        ]
        return keras.Sequential(layers)
    return getattr(architectures, name)()


def export(name: str, batch_size: str, file: str) -> None:
    """Writes the model's trainable file."""
    from hedgerow.models import export_trainable

    export_trainable(build(name), file, batch_size=int(batch_size))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "export":
        export(*sys.argv[2:])
    elif len(sys.argv) > 1 and sys.argv[1] in CONTENDERS:
        serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
