"""The zoo's contract: every system fits its data, is short to read, and is built again from its seed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from hedgerow import errors, zoo_page
from hedgerow.models import losses, optimizers, zoo
from hedgerow.models.evaluation import predictor
from hedgerow.zoo_row import Int8, Row


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_fits_its_data(name: str) -> None:
    entry = zoo.get(name)
    federation = entry.federate().thin(12)
    model = entry.create(0)
    outputs = predictor(model)(federation.test.x, *federation.test.more)
    assert model.name == entry.name == name
    assert len(outputs) == 12
    loss = losses.get(entry.loss)
    if loss.activation == "softmax":
        assert np.allclose(outputs.sum(axis=-1), 1, atol=1e-5), "the outputs are probabilities"
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
    seconds=60.0,
)


def test_the_page_says_what_was_measured() -> None:
    page = zoo_page.render([ROW])
    assert "| digits-mlp | accuracy, higher is better | 89.0 ± 0.0 % (nearest class mean) |" in page
    assert "| 91.0 ± 1.0 % | 93.0 ± 2.0 % | 97.5 ± 0.5 % | 8 on 6 devices; help in 1 of 2 seeds |" in page
    assert "| 6,570 | 90.0 % | 1.00 points | 11.8 | 8,633 | 100 % |" in page
    assert "| 57 | 0.4 | 16 | 45 | tflite 2.14.0 | 1e-07 |" in page
    assert "quick" not in page


def test_rows_of_other_systems_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    other = Row(name="motion-lstm", title="An LSTM", data="watch", not_int8="of a reason", failure="it broke")
    order = ("motion-lstm", "digits-mlp")
    assert zoo_page.merge(file, [ROW], order) == (ROW,)
    assert zoo_page.merge(file, [other], order) == (other, ROW)
    assert "failed: it broke" in zoo_page.render([other, ROW])
    better = Row(name="motion-lstm", title="An LSTM", data="watch", measure="accuracy", quick=True)
    assert zoo_page.merge(file, [better], order) == (better, ROW)
    assert "motion-lstm (quick)" in zoo_page.render([better, ROW])
