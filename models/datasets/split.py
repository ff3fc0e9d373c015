"""Splits of examples: pure functions from labels and a seed to indices.

Every function returns sorted indices, every index once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ... import errors

Indices = npt.NDArray[np.intp]


def holdout(labels: npt.NDArray[np.int32], size: int, *, seed: int) -> tuple[Indices, Indices]:
    """Holds out `size` examples, every class in its proportion.

    Args:
        labels: int32 [N].
        size: How many to hold out, from 0 to N.
        seed: Of the choice.

    Returns:
        The indices that stay, and the `size` indices held out.

    Raises:
        errors.UsageError: There are fewer than `size` examples.
    """
    if not 0 <= size <= len(labels):
        raise errors.UsageError(f"Expected to hold out 0 to {len(labels)} examples, received {size}.")
    random = np.random.default_rng(seed)
    present, counts = np.unique(labels, return_counts=True)
    quotas = apportion(counts / max(1, len(labels)), size)
    held = np.zeros(len(labels), bool)
    for label, quota in zip(present, quotas, strict=True):
        held[random.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def dirichlet_shares(classes: int, devices: int, *, alpha: float, seed: int) -> npt.NDArray[np.float64]:
    """The share of each class that goes to each device, drawn from a symmetric Dirichlet distribution.

    Small `alpha` gives each device few classes, large `alpha` gives all the same mixture.
    Source: H. Hsu, H. Qi, M. Brown, "Measuring the effects of non-identical data distribution", 2019.

    Returns:
        float64 [classes, devices]; each row sums to 1.

    Raises:
        errors.UsageError: `devices` or `alpha` is not positive.
    """
    if devices < 1:
        raise errors.UsageError(f"Expected at least 1 device, received {devices}.")
    if not (np.isfinite(alpha) and alpha > 0):
        raise errors.UsageError(f"Expected a finite Dirichlet alpha above 0, received {alpha}.")
    return np.random.default_rng(seed).dirichlet(np.full(devices, alpha), classes)


def by_shares(
    labels: npt.NDArray[np.int32], shares: npt.NDArray[np.float64], *, minimum: int, seed: int
) -> list[Indices]:
    """Deals the examples of each class out to devices by their shares.

    A device left with fewer than `minimum` takes examples from whichever device has most.

    Args:
        labels: int32 [N].
        shares: float [classes, devices], see `dirichlet_shares`.
        minimum: The fewest examples a device may have.
        seed: Of which example goes where.

    Raises:
        errors.UsageError: There are not `minimum` examples for every device.
    """
    devices = shares.shape[1]
    if len(labels) < minimum * devices:
        raise errors.UsageError(
            f"Expected at most {len(labels) // minimum} devices, so that each has {minimum} of the "
            f"{len(labels)} examples, received {devices}."
        )
    random = np.random.default_rng(seed)
    owner = np.zeros(len(labels), np.intp)
    for label, share in enumerate(shares):
        indices = random.permutation(np.flatnonzero(labels == label))
        owner[indices] = np.repeat(np.arange(devices), apportion(share, len(indices)))
    _top_up(owner, devices, minimum, random)
    return [np.flatnonzero(owner == device) for device in range(devices)]


def by_group(groups: npt.NDArray[np.int64]) -> dict[int, Indices]:
    """The indices of each group, the groups in ascending order."""
    return {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}


def apportion(shares: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.intp]:
    """Whole numbers in proportion to `shares` that sum to `total` (the method of largest remainders)."""
    exact = shares * total
    quotas: npt.NDArray[np.intp] = np.floor(exact).astype(np.intp)
    missing = total - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    return quotas


def _top_up(owner: Indices, devices: int, minimum: int, random: np.random.Generator) -> None:
    """Moves examples, in place, from the device with most to each with fewer than `minimum`."""
    for device in range(devices):
        while (counts := np.bincount(owner, minlength=devices))[device] < minimum:
            owner[random.choice(np.flatnonzero(owner == counts.argmax()))] = device
