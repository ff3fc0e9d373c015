"""The demo's releases: a model as files, measured as its field measures it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import CompilerError, HedgerowError
from .protocol.manifest import Preprocessing

if TYPE_CHECKING:
    import keras

    from .models.datasets import Dataset, Federation
    from .models.evaluation import Evaluation
    from .models.measures import Measure
    from .models.zoo import Entry
    from .quantization import Comparison, Converter, Release, Score

TARGET = "ethos-u55-128"
EXAMPLES = 200
"""What is no classifier is measured on so many: the int8 file's reference kernels write a sentence word by
word, or label all pixels of a page, in a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on held-out examples, as float and as int8.

    Attributes:
        release: Its files.
        examples: On how many it was measured.
        float32: The measure of its entry.
        int8: The same of the int8 file; None without one.
        float_classes: The classes of a classifier; None for anything else.
        int8_classes: The same of the int8 file.
        not_int8: Why there is no int8 file, or no compiled one.
    """

    release: Release
    examples: int
    float32: float
    int8: float | None
    float_classes: Evaluation | None
    int8_classes: Evaluation | None
    not_int8: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMaker:
    """Makes the releases of one model.

    Attributes:
        folder: Where releases live.
        entry: The model of the zoo.
        federation: Its data.
        converter: A running converter.
        proximal: Whether the trainable file takes the pull of FedProx.
    """

    folder: Path
    entry: Entry
    federation: Federation
    converter: Converter
    proximal: bool

    def make(self, version: str, model: keras.Model) -> Measured:
        """Builds a release and measures its file: int8, or float32 where there can be no int8 one."""
        recipe, data, comparison, why = self._converted(model)
        release, refused = self._build(version, model, recipe, data, comparison)
        key, file = _key(self.entry.measure), comparison.files[recipe]
        return Measured(
            release=release,
            examples=comparison.examples,
            float32=comparison.reference.metrics[key],
            int8=file.metrics[key] if recipe == "int8" else None,
            float_classes=_classes(comparison.reference),
            int8_classes=_classes(file) if recipe == "int8" else None,
            not_int8=why or refused,
        )

    @property
    def examples(self) -> Dataset:
        """The held-out examples that are measured: all of a classifier's, else some, spread over all."""
        test = self.federation.test
        if self.entry.classifies or len(test) <= EXAMPLES:
            return test
        return test.take(np.linspace(0, len(test) - 1, EXAMPLES).round().astype(np.intp))

    def _converted(self, model: keras.Model) -> tuple[str, bytes, Comparison, str]:
        """The recipe that works, its file, how that does against Keras, and why it is not int8."""
        why = self.entry.not_int8
        if not why:
            try:
                return *self._convert(model, "int8"), ""
            except HedgerowError as error:
                why = str(error.args[0]).rstrip(".")
        return *self._convert(model, "float32"), why

    def _convert(self, model: keras.Model, recipe: str) -> tuple[str, bytes, Comparison]:
        from .models.evaluation import predictor
        from .quantization import Comparison, Score, compare

        data = self.converter.convert(model, recipe, calibration=self.federation.calibration.inputs)
        examples, measure, key = self.examples, self.entry.measure, _key(self.entry.measure)
        if self.entry.classifies:
            comparison = compare(model, {recipe: data}, examples.inputs, examples.y)
        else:
            comparison = Comparison(Score({}, None), {recipe: Score({}, None)}, len(examples))
        if key not in comparison.reference.metrics:
            reference = _with(comparison.reference, key, measure.of(predictor(model), examples))
            file = _with(comparison.files[recipe], key, self._of_file(data))
            comparison = Comparison(reference, {recipe: file}, len(examples))
        return recipe, data, comparison

    def _of_file(self, data: bytes) -> float:
        """The measure of a file for inference, on the kernels whose numbers are the same everywhere."""
        from .hardware.inference import Inference

        with Inference(data, runtime="litert", reference_kernels=True) as inference:
            return self.entry.measure.of(lambda *inputs: inference.predict(*inputs)[0], self.examples)

    def _build(
        self, version: str, model: keras.Model, recipe: str, data: bytes, comparison: Comparison
    ) -> tuple[Release, str]:
        """The release, and why its file was not compiled."""
        from .models import export_trainable
        from .quantization import build_release

        with tempfile.TemporaryDirectory(prefix="hedgerow-") as folder:
            trainable = Path(folder) / "model.train.tflite"
            export_trainable(
                model,
                trainable,
                batch_size=self.entry.federated.batch_size,
                loss=self.entry.loss,
                optimizer=self.entry.federated.optimizer,
                proximal=self.proximal,
            )
            test, labels = self.federation.test, self.federation.central.labels
            build = partial(
                build_release,
                self.folder,
                name=self.entry.name,
                version=version,
                model=model,
                trainable=trainable,
                calibration=self.federation.calibration.inputs,
                # Sentences repeat themselves: only of a classifier are calibration and test all different.
                test=(test.inputs, test.y) if self.entry.classifies else None,
                labels=labels if model.output_shape[-1] == len(labels) else (),
                preprocessing=Preprocessing(description=self.federation.preprocessing),
                recipes=(recipe,),
                converter=self.converter,
                converted={recipe: data},
                comparison=comparison,
            )
            if recipe != "int8":
                return build(), ""
            try:
                return build(targets=(TARGET,)), ""
            except CompilerError as error:
                return build(), str(error.args[0]).rstrip(".")


def _key(measure: Measure) -> str:
    """A measure's name as a manifest writes it: `mean_iou`."""
    return measure.name.lower().replace(" ", "_")


def _with(score: Score, key: str, value: float) -> Score:
    return replace(score, metrics={**score.metrics, key: value})


def _classes(score: Score) -> Evaluation | None:
    from .models.evaluation import Evaluation

    return None if score.confusion is None else Evaluation(score.confusion)
