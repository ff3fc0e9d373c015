"""The zoo's contract: every system fits its data, is short to read, and is built again from its seed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow import errors, zoo_page
from hedgerow.models import losses, optimizers, zoo
from hedgerow.models.evaluation import predictor
from hedgerow.models.measures import PERPLEXITY
from hedgerow.zoo_pool import longest_first
from hedgerow.zoo_row import Int8, Row, Run, Verified


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_fits_its_data(name: str) -> None:
    entry = zoo.get(name)
    federation = entry.federate().thin(12)
    model = entry.create(0)
    outputs = predictor(model)(federation.test.x, *federation.test.more)
    assert model.name == entry.name == name
    assert len(outputs) == 12
    loss = losses.get(entry.loss)
    if loss.activation == "softmax" and not loss.from_logits:
        assert np.allclose(outputs.sum(axis=-1), 1, atol=1e-5), "the outputs are probabilities"
    assert loss.from_logits == (entry.measure is PERPLEXITY), "a language model gives logits"
    if loss.activation == "softmax":
        assert outputs.shape[-1] == len(federation.central.labels)
    # What is trained on fits what the loss takes, and both predictors can be measured.
    target = loss.target_spec([12, *outputs.shape[1:]])
    assert tuple(target.shape) == federation.central.y.shape
    assert target.dtype.as_numpy_dtype == federation.central.y.dtype
    assert np.isfinite(entry.measure.of(predictor(model), federation.test))
    assert np.isfinite(entry.baseline.value(entry.measure, federation.central, federation.test))
    assert federation.preprocessing
    assert all(device.train.labels == federation.central.labels for device in federation.devices)


@pytest.mark.parametrize("name", zoo.names())
def test_a_seed_gives_the_same_weights(name: str) -> None:
    first, again, other = (zoo.get(name).create(seed).get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_names_what_the_other_rooms_know(name: str) -> None:
    entry = zoo.get(name)
    assert optimizers.get(entry.federated.optimizer).name
    assert re.fullmatch(r"[a-z0-9-]{1,48}", entry.name)
    assert all(re.fullmatch(r"[a-z0-9-]{1,48}", device.name) for device in entry.federate().devices)
    assert entry.title
    assert entry.data


@pytest.mark.parametrize("name", zoo.names())
def test_a_models_file_is_short_and_names_its_source(name: str) -> None:
    file = Path(inspect.getfile(zoo.get(name).build))
    text = file.read_text()
    assert file.stem == name.replace("-", "_")
    assert len(text.splitlines()) < 120
    assert re.search(r"Sources?: ", text)


@pytest.mark.parametrize("name", ["digits-convnet", "cheque-reader", "number-translator", "char-lstm"])
def test_nothing_held_out_is_trained_on(name: str) -> None:
    federation = zoo.get(name).federate(seed=1)
    seen = {
        x.tobytes() + y.tobytes()
        for x, y in zip(federation.everything.x, federation.everything.y, strict=True)
    }
    held = [x.tobytes() + y.tobytes() for x, y in zip(federation.test.x, federation.test.y, strict=True)]
    # Texts repeat themselves; of composed and of real examples none may be on both sides.
    shared = sum(one in seen for one in held)
    assert shared == 0 or (name == "char-lstm" and shared < 0.1 * len(held))


def test_an_unknown_model_is_told_the_names() -> None:
    with pytest.raises(errors.UnknownModelError, match=r"digits-convnet.*motion-lstm.*received 'digits'"):
        zoo.get("digits")


def test_sizes() -> None:
    # 16*(9+1) + 32*(16*9+1) + 64*(32*7*7+1) + 10*(64+1), and 4*32*(6+32+1) + 7*(32+1).
    assert zoo.get("digits-convnet").create(0).count_params() == 105_866
    assert zoo.get("motion-lstm").create(0).count_params() == 5_223


def test_options_reach_the_split() -> None:
    assert len(zoo.get("digits-convnet").federate(devices=3, alpha=1.0, seed=2).devices) == 3
    assert len(zoo.get("motion-lstm").federate(devices=2).devices) == 2


@pytest.mark.parametrize(("name", "by"), [("motion-lstm", "person"), ("char-lstm", "topic")])
def test_people_and_topics_are_not_split_by_alpha(name: str, by: str) -> None:
    with pytest.raises(errors.UsageError, match=rf"split by {by}, received 0\.5"):
        zoo.get(name).federate(alpha=0.5)


ROW = Row(
    name="digits-mlp",
    title="A network",
    data="digits",
    parameters=6570,
    measure="accuracy",
    baseline_name="nearest class mean",
    devices=6,
    rounds=8,
    central=(0.90, 0.92),
    baseline=(0.89, 0.89),
    federated=(0.95, 0.91),
    everything=(0.97, 0.98),
    int8=Int8(value=0.90, reference=0.91, size_bytes=11848, cycles=8633, npu_percent=100.0),
    trainable_bytes=56772,
    step_ms=0.44,
    batch_size=16,
    peak_mib=45.2,
    runtime="tflite 2.14.0",
    parity=1.4e-7,
    rounding=9e-8,
    seconds=60.0,
)


RUN = Run(systems=(), seconds=120.0, jobs=2, processors=4)
ORDER = ("motion-lstm", "digits-mlp")


def test_the_page_says_what_was_measured() -> None:
    page = zoo_page.render(Verified().with_row(ROW, RUN, ORDER))
    assert "| digits-mlp | accuracy, higher is better | 89.0 ± 0.0 % (nearest class mean) |" in page
    assert "| 91.0 ± 1.0 % | 93.0 ± 2.0 % | 97.5 ± 0.5 % | 8 on 6 devices; help in 1 of 2 seeds |" in page
    assert "| 6,570 | 90.0 % | 1.00 points | 11.8 | 8,633 | 100 % |" in page
    assert "| 57 | 0.4 | 16 | 45 | tflite 2.14.0 | 1e-07 | 9e-08 |" in page
    assert "1 of the systems took 2.0 minutes, 2 side by side on 4 processors." in page
    assert "quick" not in page


def test_rows_of_other_systems_are_kept(tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    other = Row(name="motion-lstm", title="An LSTM", data="watch", not_int8="of a reason", failure="it broke")
    zoo_page.write(page, zoo_page.read(page.with_suffix(".json")).with_row(ROW, RUN, ORDER))
    both = zoo_page.read(page.with_suffix(".json")).with_row(other, RUN, ORDER)
    zoo_page.write(page, both)
    assert both.rows == (other, ROW)
    assert "failed: it broke" in page.read_text()
    better = Row(name="motion-lstm", title="An LSTM", data="watch", measure="accuracy", quick=True)
    third = zoo_page.read(page.with_suffix(".json")).with_row(better, RUN, ORDER)
    assert third.rows == (better, ROW)
    assert "motion-lstm (quick)" in zoo_page.render(third)
    assert [run.systems for run in third.runs] == [("digits-mlp",), ("motion-lstm",)]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["zoo.json", "zoo.md"]


def test_the_time_of_all_runs_counts() -> None:
    verified = Verified()
    long = Run(systems=(), seconds=600.0, jobs=2, processors=2)
    verified = verified.with_row(ROW, long, ORDER)
    other = Row(name="motion-lstm", title="An LSTM", data="watch", failure="it broke")
    verified = verified.with_row(
        other, Run(systems=("digits-mlp",), seconds=900.0, jobs=2, processors=2), ORDER
    )
    assert [run.systems for run in verified.runs] == [("digits-mlp", "motion-lstm")]
    verified = verified.with_row(ROW, Run(systems=(), seconds=300.0, jobs=1, processors=2), ORDER)
    assert [run.systems for run in verified.runs] == [("motion-lstm",), ("digits-mlp",)]
    assert (
        "15.0 minutes, 2 side by side on 2 processors; 1 of the systems took 5.0 minutes"
        in zoo_page.render(verified)
    )
    assert "20 minutes in all" in zoo_page.render(verified)


def test_the_slowest_goes_first_and_the_unknown_before_it() -> None:
    known = [
        msgspec.structs.replace(ROW, name=name, seconds=seconds)
        for name, seconds in (("ds-cnn", 10.0), ("resnet8", 90.0))
    ]
    assert longest_first(["ds-cnn", "resnet8", "char-lstm"], known) == ["char-lstm", "resnet8", "ds-cnn"]


def test_a_damaged_file_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text("[]")
    with pytest.raises(errors.ZooError, match="Expected the rows of an earlier verification in"):
        zoo_page.read(tmp_path / "zoo.json")


def test_passes_in_one_place() -> None:
    training = zoo.CentralTraining(epochs=20, batch_size=32, learning_rate=1e-3)
    assert training.epochs_on(1000, 100) == 4
    assert training.epochs_on(110, 100) == 20
    assert zoo.get("digits-convnet").central.epochs_on(3280, 400) == 20
