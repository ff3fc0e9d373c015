"""The demo's releases: with an int8 file and without one, by accuracy and by another measure."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest

from hedgerow.demo_release import ReleaseMaker
from hedgerow.errors import QuantizationError
from hedgerow.models import zoo
from hedgerow.models.evaluation import predictor
from hedgerow.models.measures import ACCURACY
from hedgerow.quantization import Converter


class RefusesInt8(Converter):
    """A converter that cannot make int8 files, as it is with some models."""

    def convert(self, model: object, recipe: object, **options: object) -> bytes:
        if recipe == "int8":
            raise QuantizationError("Expected a kernel, received none.")
        return super().convert(model, recipe, **options)


def maker(folder: Path, name: str, converter: Converter, **changes: object) -> ReleaseMaker:
    entry = dataclasses.replace(zoo.get(name), **changes)
    federation = entry.federate(devices=2).thin(24)
    return ReleaseMaker(
        folder=folder, entry=entry, federation=federation, converter=converter, proximal=False
    )


@pytest.mark.parametrize("known", [True, False], ids=["the zoo knows", "the converter refuses"])
def test_without_int8_the_release_is_float_and_says_why(
    known: bool, converter: Converter, tmp_path: Path
) -> None:
    changes = {"not_int8": "of a reason"} if known else {}
    with nullcontext(converter) if known else RefusesInt8() as used:
        makes = maker(tmp_path, "digits-mlp", used, **changes)
        model = makes.entry.create(0)
        made = makes.make("1.0.0", model)
    assert made.not_int8 == ("of a reason" if known else "Expected a kernel, received none")
    assert (made.int8, made.int8_classes) == (None, None)
    assert made.float32 == ACCURACY.of(predictor(model), makes.federation.test)
    assert made.float_classes is not None
    assert made.float_classes.confusion.sum() == made.examples == 24
    assert set(made.release.files) == {"trainable", "float32", "golden"}
    assert made.release.compiled == {}
    assert made.release.manifest.file("float32").metrics == {"accuracy": made.float32}


def test_a_measure_of_the_field_stands_beside_accuracy_and_in_the_manifest(
    converter: Converter, tmp_path: Path
) -> None:
    makes = maker(tmp_path, "face-detector", converter)
    model = makes.entry.create(0)
    made = makes.make("1.0.0", model)
    assert made.not_int8 == ""
    assert made.float32 == makes.entry.measure.of(predictor(model), makes.federation.test)
    assert made.int8 is not None
    assert 0 <= made.int8 <= 1
    assert made.float_classes is not None
    assert made.int8_classes is not None
    assert set(made.release.compiled) == {"ethos-u55-128"}
    assert made.release.manifest.file("int8").metrics == {
        "accuracy": made.int8_classes.accuracy,
        "roc_auc": made.int8,
    }


def test_what_is_no_classifier_has_its_own_measure_in_the_manifest(
    converter: Converter, tmp_path: Path
) -> None:
    makes = maker(tmp_path, "molecule-activity", converter)
    model = makes.entry.create(0)
    made = makes.make("1.0.0", model)
    assert (made.float_classes, made.int8_classes, made.not_int8) == (None, None, "")
    assert made.float32 == makes.entry.measure.of(predictor(model), makes.federation.test)
    assert made.release.manifest.file("int8").metrics == {"mean_roc_auc": made.int8}
    assert made.release.manifest.labels == ()
