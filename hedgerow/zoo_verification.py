"""The whole way of one system of the zoo, measured: training, int8, the NPU, the device, federated rounds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import msgspec
import numpy as np

from .errors import HedgerowError
from .hardware import vela
from .hardware.inference import Inference
from .models import augmentation, export_trainable, zoo
from .models.datasets import Dataset
from .models.evaluation import predictor
from .models.training import train_centrally
from .models.zoo import Entry, Federation
from .quantization import Converter
from .zoo_parity import parity_of_a_step
from .zoo_rounds import federate
from .zoo_row import Int8, Row

TARGET = "ethos-u55-128"


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


def verify(
    name: str,
    options: VerifyOptions,
    *,
    converter: Converter,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Row:
    """Takes one system the whole way; what a stage that fails would have measured is missing in the row.

    Args:
        name: Of the system.
        options: How thoroughly.
        converter: The process that makes the int8 file.
        on_stage: Called with what comes next, in words.

    Raises:
        UnknownModelError: There is no system of that name.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hedgerow-zoo-") as folder:
        way = _Way(zoo.get(name), options, Path(folder), converter, on_stage)
        way.go()
    return msgspec.structs.replace(way.row, seconds=time.monotonic() - started)


class _Way:
    """One system on its way; `row` has what was measured so far."""

    def __init__(
        self,
        entry: Entry,
        options: VerifyOptions,
        folder: Path,
        converter: Converter,
        on_stage: Callable[[str], None],
    ) -> None:
        self.entry, self.options, self.folder, self.converter = entry, options, folder, converter
        self.on_stage = on_stage
        self.federations: dict[int, Federation] = {}
        self.models: dict[int, keras.Model] = {}
        self.row = Row(
            name=entry.name,
            title=entry.title,
            data=entry.data,
            measure=entry.measure.name,
            higher_is_better=entry.measure.higher_is_better,
            percent=entry.measure.percent,
            baseline_name=entry.baseline.name,
            rounds=1 if options.quick else entry.federated.rounds,
            batch_size=entry.federated.batch_size,
            seeds=options.seeds,
            quick=options.quick,
        )

    @property
    def first(self) -> int:
        return self.options.seeds[0]

    def go(self) -> None:
        """All stages; without data and a central model there are no others."""
        if not (self._stage("data", self._deal) and self._stage("central training", self._train)):
            return
        self._stage("baseline", self._fit_baseline)
        self._stage("parity of a step", self._compare_a_step)
        self._stage("int8", self._make_int8)
        self._stage("federated rounds", self._refine)
        if not self.options.quick:
            self._stage("all in one place", self._train_on_everything)

    def _stage(self, name: str, run: Callable[[], None]) -> bool:
        self.on_stage(name)
        try:
            run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's and costs no other one
            words = str(error) if isinstance(error, HedgerowError) else f"{type(error).__name__}: {error}"
            failure = f"{name}: {' '.join(words.split())[:300]}"
            self._measured(failure=f"{self.row.failure}; {failure}" if self.row.failure else failure)
            return False
        return True

    def _measured(self, **values: object) -> None:
        self.row = msgspec.structs.replace(self.row, **values)

    def _value(self, model: keras.Model, seed: int) -> float:
        return self.entry.measure.of(predictor(model), self.federations[seed].test)

    def _deal(self) -> None:
        quick, size = self.options.quick, self.entry.federated.batch_size
        for seed in self.options.seeds:
            dealt = self.entry.federate(devices=2 if quick else None, seed=seed)
            self.federations[seed] = dealt.thin(size) if quick else dealt
        self._measured(devices=len(self.federations[self.first].devices))

    def _train(self) -> None:
        central = self.entry.central
        for seed in self.options.seeds:
            self.models[seed] = self._trained(
                self.federations[seed].central, central.epochs, seed, augmented=central.augments_central
            )
        values = tuple(self._value(self.models[seed], seed) for seed in self.options.seeds)
        self._measured(central=values, parameters=self.models[self.first].count_params())

    def _trained(self, data: Dataset, epochs: int, seed: int, *, augmented: bool = False) -> keras.Model:
        entry, central = self.entry, self.entry.central
        model = entry.create(seed)
        if entry.pretrain:
            entry.pretrain(model, self.federations[seed], seed)
        train_centrally(
            model,
            data,
            epochs=1 if self.options.quick else epochs,
            batch_size=central.batch_size,
            learning_rate=central.learning_rate,
            seed=seed,
            loss=entry.loss,
            augment=augmentation.for_shape(data.x.shape[1:]) if augmented else None,
        )
        return model

    def _fit_baseline(self) -> None:
        entry, parts = self.entry, [self.federations[seed] for seed in self.options.seeds]
        values = tuple(entry.baseline.value(entry.measure, part.central, part.test) for part in parts)
        self._measured(baseline=values)

    def _compare_a_step(self) -> None:
        parity, rounding = parity_of_a_step(
            self.entry, self.models[self.first], self.federations[self.first].central, self.folder
        )
        self._measured(parity=parity, rounding=rounding)

    def _make_int8(self) -> None:
        """The int8 file of the central model, its measure and what an NPU makes of it."""
        if self.entry.not_int8:
            self._measured(not_int8=self.entry.not_int8)
            return
        model, federation = self.models[self.first], self.federations[self.first]
        file = self.folder / "int8.tflite"
        try:
            file.write_bytes(self.converter.convert(model, "int8", calibration=federation.calibration.inputs))
        except HedgerowError as error:
            self._measured(not_int8=str(error.args[0])[:300])
            return
        wanted = 8 if self.options.quick else self.options.int8_examples
        few = federation.test.take(np.arange(min(len(federation.test), wanted)))
        with Inference(file, runtime="litert", reference_kernels=True) as inference:
            value = self.entry.measure.of(lambda *inputs: inference.predict(*inputs)[0], few)
        reference = self.entry.measure.of(predictor(model), few)
        size_bytes = file.stat().st_size
        self._measured(int8=_on_npu(Int8(value=value, reference=reference, size_bytes=size_bytes), file))

    def _refine(self) -> None:
        """The rounds of every seed, and what a step takes."""
        entry, quick = self.entry, self.options.quick
        file = self.folder / ("sgd.tflite" if quick else "trainable.tflite")
        if not file.is_file():
            export_trainable(
                self.models[self.first],
                file,
                batch_size=entry.federated.batch_size,
                loss=entry.loss,
                optimizer="sgd" if quick else entry.federated.optimizer,
            )
        values, answers, refined = [], [], entry.build()
        for seed in self.options.seeds:
            weights, answer = federate(
                self.folder,
                file,
                self.models[seed].get_weights(),
                [device.train for device in self.federations[seed].devices],
                rounds=self.row.rounds,
                epochs=1 if quick else entry.federated.local_epochs,
                learning_rate=entry.federated.learning_rate,
                seed=seed,
                timed_steps=(3 if quick else 20) if seed == self.first else 0,
            )
            refined.set_weights(weights)
            values.append(self._value(refined, seed))
            answers.append(answer)
        self._measured(
            federated=tuple(values),
            trainable_bytes=file.stat().st_size,
            step_ms=answers[0].step_ms,
            peak_mib=answers[0].peak_mib,
            runtime=answers[0].runtime,
        )

    def _train_on_everything(self) -> None:
        values = []
        for seed in self.options.seeds:
            central, everything = self.federations[seed].central, self.federations[seed].everything
            epochs = self.entry.central.epochs_on(len(everything), len(central))
            model = self._trained(everything, epochs, seed, augmented=self.entry.central.augments_all)
            values.append(self._value(model, seed))
        self._measured(everything=tuple(values))


def _on_npu(int8: Int8, file: Path) -> Int8:
    """With what Vela makes of the file."""
    try:
        report = vela.compile(file, TARGET, file.with_name("vela"))
    except HedgerowError as error:
        return msgspec.structs.replace(int8, remark=str(error.args[0])[:200])
    on_cpu = sorted({operator.operator for operator in report.cpu_operators})
    remark = f"on the CPU: {', '.join(on_cpu)}" if on_cpu else ""
    return msgspec.structs.replace(int8, cycles=report.cycles, npu_percent=report.npu_percent, remark=remark)
