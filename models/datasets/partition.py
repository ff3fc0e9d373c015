"""Splits by Flower's own partitioners: by a column, by Dirichlet shares, by shards, or evenly."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import errors

_FORMS = "a column's name, dirichlet:ALPHA, shards:NUMBER or iid"
_INDEX = "index"
_LABEL = "label"


def partition(
    labels: npt.NDArray[np.int32],
    by: str,
    devices: int,
    *,
    column: npt.NDArray[Any] | None = None,
    seed: int = 0,
) -> dict[str, npt.NDArray[np.intp]]:
    """The examples of each device.

    Args:
        labels: int32 [N].
        by: `dirichlet:ALPHA` (Hsu et al. 2019), `shards:NUMBER` (so many shards of examples sorted by label
            on each device, McMahan et al. 2017), `iid`, or the name of `column`.
        devices: How many; with a column, at most so many of its values.
        column: [N], whom each example comes from: every value is a device.
        seed: Of every choice.

    Returns:
        Sorted indices by device name, every index at most once.

    Raises:
        errors.UsageError: `by` is none of these, a number is out of range, or a device would get nothing.
        errors.DatasetError: flwr-datasets is not installed.
    """
    if devices < 1:
        raise errors.UsageError(f"Expected at least 1 device, received {devices}.")
    order = np.random.default_rng(seed).permutation(len(labels))
    columns: dict[str, Any] = {_INDEX: order, _LABEL: labels[order]}
    if column is not None:
        columns["column"] = column[order].astype(str)
    partitioner = _partitioner(by, devices, seed, natural=column is not None)
    partitioner.dataset = _library("datasets").Dataset.from_dict(columns)
    try:
        count = min(devices, partitioner.num_partitions)
        parts = [
            np.sort(np.asarray(partitioner.load_partition(number)[_INDEX], np.intp))
            for number in range(count)
        ]
    except (ValueError, ZeroDivisionError) as error:
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise errors.UsageError(
            f"Expected a split that gives each of {devices} devices examples, received {by!r}: {words}.",
            remedy="Take fewer devices, a larger alpha or fewer shards.",
        ) from error
    if column is None:
        return {f"device-{number:02d}": part for number, part in enumerate(parts, start=1)}
    return {_device_name(by, str(column[part[0]])): part for part in parts}


def _partitioner(by: str, devices: int, seed: int, *, natural: bool) -> Any:
    library = _library("flwr_datasets.partitioner")
    if natural:
        return library.NaturalIdPartitioner(partition_by="column")
    if by == "iid":
        return library.IidPartitioner(num_partitions=devices)
    if found := re.fullmatch(r"dirichlet:(\d+\.?\d*|\.\d+)", by):
        if not float(found[1]) > 0:
            raise errors.UsageError(f"Expected a Dirichlet alpha above 0, received {by!r}.")
        return library.DirichletPartitioner(
            num_partitions=devices,
            partition_by=_LABEL,
            alpha=float(found[1]),
            min_partition_size=2,
            seed=seed,
        )
    if found := re.fullmatch(r"shards:([1-9]\d*)", by):
        return library.ShardPartitioner(
            num_partitions=devices, partition_by=_LABEL, num_shards_per_partition=int(found[1]), seed=seed
        )
    raise errors.UsageError(f"Expected --by {_FORMS}, received {by!r}.")


def _device_name(column: str, value: str) -> str:
    """A name that can stand in a topic: `person-04` of the column `person` and the value `4`."""
    padded = value.zfill(2) if value.isdigit() else value
    return re.sub(r"[^a-z0-9]+", "-", f"{column}-{padded}".lower()).strip("-")[:48]


def _library(name: str) -> Any:
    # Both libraries would otherwise ask the network about themselves.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return import_module(name)
    except ImportError as error:
        raise errors.DatasetError(
            f"Expected the package {name.split('.')[0]}, which is not installed.",
            remedy="Install Flower's partitioners: pip install 'hedgerow[zoo]'.",
        ) from error
