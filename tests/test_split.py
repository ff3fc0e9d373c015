"""Splits: disjoint, complete, reproducible, and as uneven as they were asked to be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import errors
from hedgerow.models.datasets import split

SEEDS = st.integers(0, 2**32 - 1)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda labels: np.array(labels, np.int32))


def partition(parts: list[split.Indices], size: int) -> None:
    """Asserts that every index from 0 to size - 1 is in exactly one part, and every part in order."""
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    for part in parts:
        assert (np.diff(part) > 0).all()


@given(labels=LABELS, share=st.floats(0, 1), seed=SEEDS)
def test_holdout_takes_every_class_in_its_proportion(
    labels: npt.NDArray[np.int32], share: float, seed: int
) -> None:
    size = round(share * len(labels))
    stay, held = split.holdout(labels, size, seed=seed)
    assert len(held) == size
    partition([stay, held], len(labels))
    expected = np.bincount(labels, minlength=5) * size / len(labels)
    assert (np.abs(np.bincount(labels[held], minlength=5) - expected) < 1).all()


@given(labels=LABELS, seed=SEEDS)
def test_holdout_of_a_seed_is_always_the_same(labels: npt.NDArray[np.int32], seed: int) -> None:
    first = split.holdout(labels, len(labels) // 2, seed=seed)
    again = split.holdout(labels, len(labels) // 2, seed=seed)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_holdout_of_another_seed_is_another() -> None:
    labels = np.zeros(100, np.int32)
    assert not np.array_equal(split.holdout(labels, 50, seed=0)[1], split.holdout(labels, 50, seed=1)[1])


@pytest.mark.parametrize("size", [-1, 4])
def test_holdout_cannot_take_what_is_not_there(size: int) -> None:
    with pytest.raises(errors.UsageError, match=f"hold out 0 to 3 examples, received {size}"):
        split.holdout(np.zeros(3, np.int32), size, seed=0)


def test_apportion_by_hand() -> None:
    # 7 seats: exact 3.5, 2.45, 1.05; floors 3, 2, 1; the seventh goes to the largest remainder, 0.5.
    assert split.apportion(np.array([0.5, 0.35, 0.15]), 7).tolist() == [4, 2, 1]


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda weights: sum(weights) > 1e-3),
    total=st.integers(0, 10_000),
)
def test_apportion_gives_out_everything_fairly(weights: list[float], total: int) -> None:
    shares = np.array(weights) / np.sum(weights)
    quotas = split.apportion(shares, total)
    assert quotas.sum() == total
    assert (np.abs(quotas - shares * total) <= 1 + 1e-6).all()


@given(
    labels=LABELS,
    devices=st.integers(1, 12),
    alpha=st.floats(0.01, 1000),
    minimum=st.integers(0, 3),
    seed=SEEDS,
)
def test_shares_deal_everything_out_once(
    labels: npt.NDArray[np.int32], devices: int, alpha: float, minimum: int, seed: int
) -> None:
    shares = split.dirichlet_shares(5, devices, alpha=alpha, seed=seed)
    assert np.allclose(shares.sum(axis=1), 1)
    if minimum * devices > len(labels):
        with pytest.raises(errors.UsageError, match=f"at most {len(labels) // minimum} devices"):
            split.by_shares(labels, shares, minimum=minimum, seed=seed)
        return
    parts = split.by_shares(labels, shares, minimum=minimum, seed=seed)
    assert len(parts) == devices
    partition(parts, len(labels))
    assert min(map(len, parts)) >= minimum
    again = split.by_shares(labels, shares, minimum=minimum, seed=seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_small_alpha_is_uneven_and_large_alpha_is_even() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 400)

    def largest_class_share(alpha: float) -> float:
        shares = split.dirichlet_shares(10, 8, alpha=alpha, seed=3)
        parts = split.by_shares(labels, shares, minimum=1, seed=3)
        counts = [np.bincount(labels[part], minlength=10) for part in parts]
        return float(np.mean([count.max() / count.sum() for count in counts]))

    assert largest_class_share(1000.0) < 0.12
    assert 0.15 < largest_class_share(0.5) < 0.6
    assert largest_class_share(0.02) > 0.6


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_is_finite_and_positive(alpha: float) -> None:
    with pytest.raises(errors.UsageError, match="alpha above 0"):
        split.dirichlet_shares(10, 8, alpha=alpha, seed=0)


def test_there_is_at_least_one_device() -> None:
    with pytest.raises(errors.UsageError, match="at least 1 device, received 0"):
        split.dirichlet_shares(10, 0, alpha=0.5, seed=0)


def test_by_group_by_hand() -> None:
    groups = split.by_group(np.array([7, 3, 7, 3, 3]))
    assert {group: indices.tolist() for group, indices in groups.items()} == {3: [1, 3, 4], 7: [0, 2]}
    assert list(groups) == [3, 7]
