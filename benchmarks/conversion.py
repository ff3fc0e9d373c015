"""Float against int8 for the zoo's models, trained on real data: accuracy, size, and what an NPU makes of it.

    python benchmarks/conversion.py                      # all models of the table, about an hour on 2 cores
    python benchmarks/conversion.py digits-convnet       # some of them
    python benchmarks/conversion.py --models trained/    # keeps trained models there for the next run

Each model is trained with the zoo's own numbers, converted with the recipe int8 (and the rungs above it that
still are full int8, if the accuracy drops by more than a point), measured on the zoo's held-out examples with
the reference kernels, and compiled for an Ethos-U55-128 with Vela. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from hedgerow.errors import GateError, HedgerowError
from hedgerow.hardware import vela
from hedgerow.models.training import EpochResult, train_centrally
from hedgerow.quantization import Converter, Gate
from hedgerow.training_task import Task, find_task

NAMES = (
    "digits-convnet",
    "motion-lstm",
    "motion-convnet",
    "speaker-lstm",
    "face-detector",
    "resnet8",
    "ds-cnn",
    "mobilenet-v1",
)
LADDER = ("int8", "int8-ranges", "int8-tuned")
ACCELERATOR = "ethos-u55-128"
MAX_DROP = 0.01
CALIBRATION = 200


@dataclass(frozen=True, slots=True)
class Row:
    model: str
    examples: int
    float_metric: float
    recipe: str
    int8_metric: float
    drop: float
    float_bytes: int
    int8_bytes: int
    npu_percent: float
    cycles: int

    def markdown(self) -> str:
        return (
            f"| {self.model} | {self.examples:,} | {100 * self.float_metric:.2f} % | {self.recipe} | "
            f"{100 * self.int8_metric:.2f} % | {100 * self.drop:+.2f} | {self.float_bytes / 1024:.1f} | "
            f"{self.int8_bytes / 1024:.1f} | {100 * self.int8_bytes / self.float_bytes:.0f} % | "
            f"{self.npu_percent:.0f} % | {self.cycles:,} |"
        )


COLUMNS = (
    "model",
    "held out",
    "float32",
    "recipe",
    "int8",
    "drop, points",
    "float KiB",
    "int8 KiB",
    "ratio",
    f"on {ACCELERATOR}",
    "cycles",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|---:|---:|---{'|---:' * 7}|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="models of the zoo")
    parser.add_argument("--models", type=Path, help="folder of trained models")
    parser.add_argument("--epochs", type=int, help="fewer than the zoo's, to try the script out")
    options = parser.parse_args()
    print(HEADER, flush=True)
    failed = False
    with Converter() as converter:
        for name in options.names:
            try:
                print(row(name, converter, options.models, options.epochs).markdown(), flush=True)
            except HedgerowError as error:
                failed = True
                say(f"{name}: {error}")
    sys.exit(failed)


def row(name: str, converter: Converter, folder: Path | None, epochs: int | None) -> Row:
    """Trains, converts, measures and compiles one model."""
    task = find_task(name, None, held_out=0.2, loss=None, seed=0)
    model = trained(task, folder, epochs)
    order = np.random.default_rng(0).permutation(len(task.train))
    gate = Gate(
        model,
        calibration=task.train.x[order[:CALIBRATION]],
        test=(task.held_out.x, task.held_out.y),
        training=(task.train.x, task.train.y),
        converter=converter,
        max_drop=MAX_DROP,
        on_progress=lambda text: say(f"{name}: {text}"),
    )
    float_rung = gate.climb(("float32",))
    try:
        rung = gate.climb(LADDER)
        data = gate.files[rung.recipe]
    except GateError:
        rung = next(one for one in gate.rungs if one.recipe == "int8")
        data = converter.convert(model, "int8", calibration=task.train.x[order[:CALIBRATION]])
    report = compiled(data)
    assert rung.value is not None and rung.drop is not None and float_rung.value is not None
    return Row(
        name,
        len(task.held_out),
        float_rung.value,
        rung.recipe,
        rung.value,
        rung.drop,
        float_rung.size_bytes,
        rung.size_bytes,
        report.npu_percent,
        report.cycles,
    )


def trained(task: Task, folder: Path | None, epochs: int | None) -> keras.Model:
    """The model after the zoo's central training, from `folder` if it is there already."""
    path = None if folder is None else folder / f"{task.name}.keras"
    if path is not None and path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model = task.build()
    if task.pretrain is not None:
        task.pretrain(model)
    total = epochs or task.training.epochs
    began = time.perf_counter()

    def tell(result: EpochResult) -> None:
        say(f"{task.name}: epoch {result.epoch} of {total}, loss {result.loss:.3f}")

    train_centrally(
        model,
        task.train,
        epochs=total,
        batch_size=task.training.batch_size,
        learning_rate=task.training.learning_rate,
        loss=task.loss,
        seed=0,
        on_epoch=tell,
    )
    say(f"{task.name}: trained in {time.perf_counter() - began:.0f} s")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def compiled(data: bytes) -> vela.VelaReport:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "int8.tflite"
        path.write_bytes(data)
        return vela.compile(path, ACCELERATOR, name)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
