"""The zoo's contract: every model fits its own data and can be built again from its seed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hedgerow import errors
from hedgerow.models import losses, optimizers, zoo


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_fits_its_data(name: str) -> None:
    entry = zoo.get(name)
    federation = entry.federate()
    model = entry.create(0)
    outputs = model(federation.test.x[:5], training=False).numpy()
    assert model.name == entry.name == name
    assert outputs.shape == (5, len(federation.test.labels))
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-5), "the outputs are probabilities"
    assert federation.preprocessing


@pytest.mark.parametrize("name", zoo.names())
def test_a_seed_gives_the_same_weights(name: str) -> None:
    first, again, other = (zoo.get(name).create(seed).get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_names_what_the_other_rooms_know(name: str) -> None:
    entry = zoo.get(name)
    assert losses.get(entry.loss).activation == "softmax"
    assert optimizers.get(entry.federated.optimizer).name
    assert re.fullmatch(r"[a-z0-9-]{1,48}", entry.name)
    assert all(re.fullmatch(r"[a-z0-9-]{1,48}", device.name) for device in entry.federate().devices)
    assert entry.title


def test_an_unknown_model_is_told_the_names() -> None:
    with pytest.raises(errors.UnknownModelError, match=r"digits-convnet, motion-lstm.*received 'digits'"):
        zoo.get("digits")


def test_sizes() -> None:
    # 16*(9+1) + 32*(16*9+1) + 64*(32*7*7+1) + 10*(64+1), and 4*32*(6+32+1) + 7*(32+1).
    assert zoo.get("digits-convnet").create(0).count_params() == 105_866
    assert zoo.get("motion-lstm").create(0).count_params() == 5_223


def test_options_reach_the_split() -> None:
    assert len(zoo.get("digits-convnet").federate(devices=3, alpha=1.0, seed=2).devices) == 3
    assert len(zoo.get("motion-lstm").federate(devices=2).devices) == 2


def test_people_are_not_split_by_alpha() -> None:
    with pytest.raises(errors.UsageError, match=r"split by person, received 0\.5"):
        zoo.get("motion-lstm").federate(alpha=0.5)
