"""`hedgerow zoo` and the whole way of a system."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hedgerow import errors
from hedgerow.models import zoo
from hedgerow.zoo_cli import app
from hedgerow.zoo_device import average


def test_the_page_of_a_checkout_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Path(__file__).parents[1] / "docs"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "zoo.json").write_bytes((pages / "zoo.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "zoo.md").touch()
    done = CliRunner().invoke(app, ["verify", "digits-mlp", "--resume"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "docs" / "zoo.md").read_text() == (pages / "zoo.md").read_text()


def test_the_table_names_every_system() -> None:
    done = CliRunner().invoke(app, ["--json"])
    assert done.exit_code == 0, done.output
    listed = {one["name"]: one for one in json.loads(done.stdout)}
    assert tuple(listed) == zoo.names()
    assert listed["digits-convnet"]["parameters"] == 105_866
    assert listed["face-detector"]["needs"] == ["scikit-image"]
    assert not any(one["missing"] for one in listed.values())


def test_an_unknown_system_is_told_the_names() -> None:
    done = CliRunner().invoke(app, ["verify", "digits"])
    assert isinstance(done.exception, errors.UnknownModelError)


def test_the_mean_counts_examples() -> None:
    one, other = [np.array([1.0, 2.0]), np.array(4.0)], [np.array([5.0, 2.0]), np.array(0.0)]
    (mean, scalar) = average([(1, one), (3, other)])
    assert mean.tolist() == [4.0, 2.0]
    assert scalar == 1.0
    assert mean.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-mlp", "word-vectors", "digit-embedding"])
def test_a_system_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    done = CliRunner().invoke(app, ["verify", name, "--quick", "--out", str(page), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["parity"] < 1e-4
    assert row["trainable_bytes"] > 4 * row["parameters"] > row["int8"]["size_bytes"] > row["parameters"]
    assert row["int8"]["cycles"] > 0
    assert row["step_ms"] > 0
    assert 10 < row["peak_mib"] < 200
    assert f"| {name} (quick) |" in page.read_text()
