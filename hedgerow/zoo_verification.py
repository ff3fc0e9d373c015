"""The whole way of one system of the zoo, measured: training, int8, the NPU, the device, federated rounds.

`python -m hedgerow.zoo_verification NAME OPTIONS.json ROW.json` verifies one system in a process of its own,
so that a converter or a runtime that crashes costs one row.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np

from .errors import HedgerowError, InterpreterError
from .hardware import vela
from .hardware.inference import Inference
from .models import export_trainable, zoo
from .models.datasets import Dataset
from .models.evaluation import predictor
from .models.keras_loss import keras_loss
from .models.training import train_centrally
from .models.zoo import Entry, Federation
from .quantization import Converter, convert
from .zoo_device import Answer, Plan
from .zoo_row import Int8, Row

TARGET = "ethos-u55-128"
_DEVICE_TIMEOUT_SECONDS = 1800
_MOST_STEPS = 3
_RANDOM = ("rate", "dropout", "recurrent_dropout", "stddev")


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How thoroughly to verify.

    Attributes:
        seeds: Of the split, the weights and the order; each is a whole run of training and rounds.
        quick: A few examples, one epoch, one round of gradient descent, nothing in one place: that every
            system runs, not how well.
        int8_examples: On how many held-out examples the int8 file is measured.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    int8_examples: int = 200


def verify(name: str, options: VerifyOptions) -> Row:
    """Takes one system the whole way.

    Raises:
        UnknownModelError: There is no system of that name.
        HedgerowError: A stage of it failed.
    """
    started = time.monotonic()
    entry = zoo.get(name)
    federations = {seed: _federation(entry, seed, options) for seed in options.seeds}
    models = {seed: _trained(entry, federations[seed], "central", seed, options) for seed in options.seeds}
    first = options.seeds[0]
    row = Row(
        name=entry.name,
        title=entry.title,
        data=entry.data,
        parameters=models[first].count_params(),
        measure=entry.measure.name,
        higher_is_better=entry.measure.higher_is_better,
        percent=entry.measure.percent,
        baseline_name=entry.baseline.name,
        devices=len(federations[first].devices),
        rounds=1 if options.quick else entry.federated.rounds,
        central=tuple(
            entry.measure.of(predictor(models[seed]), federations[seed].test) for seed in options.seeds
        ),
        baseline=tuple(
            entry.baseline.value(entry.measure, federations[seed].central, federations[seed].test)
            for seed in options.seeds
        ),
        batch_size=entry.federated.batch_size,
        quick=options.quick,
    )
    with tempfile.TemporaryDirectory(prefix="hedgerow-zoo-") as name_of_folder:
        folder = Path(name_of_folder)
        row = msgspec.structs.replace(row, parity=_parity(entry, models[first], federations[first], folder))
        row = _on_devices(row, entry, models, federations, options, folder)
        row = _as_int8(row, entry, models[first], federations[first], options, folder)
    everything = tuple(
        entry.measure.of(
            predictor(_trained(entry, federations[seed], "everything", seed, options)), federations[seed].test
        )
        for seed in (() if options.quick else options.seeds)
    )
    return msgspec.structs.replace(row, everything=everything, seconds=time.monotonic() - started)


def _federation(entry: Entry, seed: int, options: VerifyOptions) -> Federation:
    federation = entry.federate(devices=2 if options.quick else None, seed=seed)
    return federation.thin(entry.federated.batch_size) if options.quick else federation


def _trained(
    entry: Entry, federation: Federation, part: str, seed: int, options: VerifyOptions
) -> keras.Model:
    model = entry.create(seed)
    if entry.pretrain:
        entry.pretrain(model, federation, seed)
    data: Dataset = getattr(federation, part)
    # On more data fewer passes do, or training in one place would take most of the time.
    steps = entry.central.epochs * len(federation.central)
    epochs = min(entry.central.epochs, math.ceil(_MOST_STEPS * steps / len(data)))
    train_centrally(
        model,
        data,
        epochs=1 if options.quick else epochs,
        batch_size=entry.central.batch_size,
        learning_rate=entry.central.learning_rate,
        seed=seed,
        loss=entry.loss,
    )
    return model


def _parity(entry: Entry, trained: keras.Model, federation: Federation, folder: Path) -> float:
    """One step of gradient descent on a device runtime and in Keras, from the same weights on the same batch.

    Random layers are still in both: their numbers come from different generators.
    """
    model = entry.build()
    model.set_weights(trained.get_weights())
    size = entry.federated.batch_size
    order = np.random.default_rng(0).permutation(len(federation.central))
    batch = federation.central.take(np.resize(order, size))
    with _still(model):
        export_trainable(model, folder / "sgd.tflite", batch_size=size, loss=entry.loss, optimizer="sgd")
        before = model.get_weights()
        device, _ = _federate(
            folder, folder / "sgd.tflite", before, [batch], rounds=1, epochs=1, learning_rate=1.0
        )
        model.compile(keras.optimizers.SGD(1.0), keras_loss(entry.loss))
        model.train_on_batch(batch.inputs, batch.y)
    updates = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
    largest = max(float(np.abs(update).max()) for update in updates)
    return max(
        float(np.abs(mine - old - update).max()) / largest
        for mine, old, update in zip(device, before, updates, strict=True)
    )


@contextmanager
def _still(model: keras.Model) -> Iterator[None]:
    """The model without dropout and noise."""
    found = [
        (layer, name, vars(layer)[name])
        for layer in model._flatten_layers()
        for name in _RANDOM
        if isinstance(vars(layer).get(name), float)
    ]
    for layer, name, _ in found:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, value in found:
            setattr(layer, name, value)


def _on_devices(
    row: Row,
    entry: Entry,
    models: dict[int, keras.Model],
    federations: dict[int, Federation],
    options: VerifyOptions,
    folder: Path,
) -> Row:
    """The rounds of every seed, and what a step takes."""
    federated, first = entry.federated, options.seeds[0]
    file = folder / "sgd.tflite"
    if not options.quick:
        file = folder / "trainable.tflite"
        export_trainable(
            models[first],
            file,
            batch_size=federated.batch_size,
            loss=entry.loss,
            optimizer=federated.optimizer,
        )
    values, answers = [], []
    refined = entry.build()
    for seed in options.seeds:
        weights, answer = _federate(
            folder,
            file,
            models[seed].get_weights(),
            [device.train for device in federations[seed].devices],
            rounds=row.rounds,
            epochs=1 if options.quick else federated.local_epochs,
            learning_rate=federated.learning_rate,
            seed=seed,
            timed_steps=(3 if options.quick else 20) if seed == first else 0,
        )
        refined.set_weights(weights)
        values.append(entry.measure.of(predictor(refined), federations[seed].test))
        answers.append(answer)
    return msgspec.structs.replace(
        row,
        federated=tuple(values),
        trainable_bytes=file.stat().st_size,
        step_ms=answers[0].step_ms,
        peak_mib=answers[0].peak_mib,
        runtime=answers[0].runtime,
    )


def _federate(
    folder: Path,
    file: Path,
    start: list[Any],
    devices: list[Dataset],
    *,
    rounds: int,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
    timed_steps: int = 0,
) -> tuple[list[Any], Answer]:
    """Runs the devices in a process of their own.

    Raises:
        InterpreterError: It ended without an answer.
    """
    for number, data in enumerate(devices):
        inputs = {f"x{place}": array for place, array in enumerate((data.x, *data.more))}
        np.savez(folder / f"device-{number}.npz", y=data.y, **inputs)
    np.savez(folder / "start.npz", **{f"w{place}": value for place, value in enumerate(start)})
    plan = Plan(
        file=str(file), devices=len(devices), rounds=rounds, epochs=epochs, learning_rate=learning_rate,
        seed=seed, timed_steps=timed_steps,
    )  # fmt: skip
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    (folder / "answer.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "hedgerow.zoo_device", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_DEVICE_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0 or not (folder / "answer.json").is_file():
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InterpreterError(f"Expected the devices to train on {file.name}, received: {words[-1][:500]}.")
    with np.load(folder / "weights.npz") as stored:
        weights = [stored[f"w{place}"] for place in range(len(stored.files))]
    return weights, msgspec.json.decode((folder / "answer.json").read_bytes(), type=Answer)


def _as_int8(
    row: Row,
    entry: Entry,
    model: keras.Model,
    federation: Federation,
    options: VerifyOptions,
    folder: Path,
) -> Row:
    """The int8 file of the central model, its measure and what an NPU makes of it."""
    if entry.not_int8:
        return msgspec.structs.replace(row, not_int8=entry.not_int8)
    file, calibration = folder / "int8.tflite", federation.calibration
    try:
        with Converter() as converter:
            file.write_bytes(convert(model, "int8", calibration=calibration.inputs, converter=converter))
    except HedgerowError as error:
        return msgspec.structs.replace(row, not_int8=str(error.args[0])[:300])
    few = federation.test.take(
        np.arange(min(len(federation.test), 8 if options.quick else options.int8_examples))
    )
    with Inference(file, runtime="litert", reference_kernels=True) as inference:
        value = entry.measure.of(lambda *inputs: inference.predict(*inputs)[0], few)
    int8 = Int8(
        value=value, reference=entry.measure.of(predictor(model), few), size_bytes=file.stat().st_size
    )
    try:
        report = vela.compile(file, TARGET, folder / "vela")
    except HedgerowError as error:
        int8 = msgspec.structs.replace(int8, remark=str(error.args[0])[:200])
    else:
        on_cpu = sorted({operator.operator for operator in report.cpu_operators})
        int8 = msgspec.structs.replace(
            int8,
            cycles=report.cycles,
            npu_percent=report.npu_percent,
            remark=f"on the CPU: {', '.join(on_cpu)}" if on_cpu else "",
        )
    return msgspec.structs.replace(row, int8=int8)


def main(name: str, options: Path, out: Path) -> None:
    """Verifies one system and writes its row, whatever becomes of it."""
    settings = msgspec.json.decode(options.read_bytes(), type=VerifyOptions)
    try:
        row = verify(name, settings)
    except HedgerowError as error:
        entry = zoo.get(name)
        row = Row(
            name=name, title=entry.title, data=entry.data, quick=settings.quick, failure=str(error)[:500]
        )
    out.write_bytes(msgspec.json.encode(row))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
