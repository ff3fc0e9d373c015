"""`hedgerow split` and Flower's partitioners behind it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hedgerow import errors
from hedgerow.models.datasets.partition import partition
from hedgerow.split_cli import app

LABELS = np.repeat(np.arange(10, dtype=np.int32), 40)


@pytest.mark.parametrize("by", ["iid", "dirichlet:0.5", "shards:2"])
def test_every_example_goes_to_one_device_and_the_seed_says_to_which(by: str) -> None:
    parts = partition(LABELS, by, 5, seed=1)
    assert list(parts) == [f"device-{number:02d}" for number in range(1, 6)]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(400))
    again, other = partition(LABELS, by, 5, seed=1), partition(LABELS, by, 5, seed=2)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert any(not np.array_equal(parts[name], other[name]) for name in parts)


def test_shards_and_alpha_make_devices_differ() -> None:
    def classes(by: str) -> float:
        return float(np.mean([len(np.unique(LABELS[part])) for part in partition(LABELS, by, 10).values()]))

    assert classes("iid") > 9
    assert classes("shards:2") <= 3
    assert classes("dirichlet:0.1") < classes("dirichlet:100")


def test_a_column_makes_its_values_devices() -> None:
    people = np.tile([4, 7, 11, 4], 100)
    parts = partition(LABELS, "person", 10, column=people)
    assert sorted(parts) == ["person-04", "person-07", "person-11"]
    assert np.array_equal(parts["person-07"], np.flatnonzero(people == 7))
    assert len(partition(LABELS, "person", 2, column=people)) == 2


@pytest.mark.parametrize("by", ["dirichlet", "dirichlet:0", "shards:0", "shards:x", "evenly"])
def test_a_rule_that_is_none_is_told_the_forms(by: str) -> None:
    with pytest.raises(errors.UsageError, match=r"Expected .*(--by|alpha above 0).*received"):
        partition(LABELS, by, 4)


def test_too_many_shards() -> None:
    with pytest.raises(errors.UsageError, match="Take fewer devices"):
        partition(LABELS, "shards:50", 50)


def test_the_command_writes_what_agents_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = tmp_path / "readings.npz"
    np.savez(data, x=random.random((60, 4)).astype(np.float32), y=np.arange(60) % 3, person=np.arange(60) % 4)
    out = tmp_path / "split"
    done = CliRunner().invoke(app, [str(data), "--by", "person", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "split.json").read_text())
    assert report["devices"] == {f"person-0{number}": [5, 5, 5] for number in range(4)}
    with np.load(out / "person-02" / "train.npz") as train, np.load(out / "person-02" / "test.npz") as test:
        assert train["x"].shape == (12, 4)
        assert test["x"].shape == (3, 4)
        assert (train["x"].dtype, train["y"].dtype) == (np.float32, np.int32)
    assert "examples per class and device" in (out / "samples.svg").read_text()


def test_a_table_is_split_by_a_column_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    rows = [
        f"{number},{number / 2},{'wet' if number % 2 else 'dry'},field-{number % 3}" for number in range(30)
    ]
    table.write_text("\n".join(["a,b,label,field", *rows]))
    out = tmp_path / "split"
    done = CliRunner().invoke(app, [str(table), "--by", "field", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(json.loads(done.stdout)["devices"]) == ["field-field-0", "field-field-1", "field-field-2"]
    assert json.loads(done.stdout)["labels"] == ["dry", "wet"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = CliRunner().invoke(app, ["data.npz", "--out", str(tmp_path)])
    assert isinstance(done.exception, errors.OutputFolderError)
