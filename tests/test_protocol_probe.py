"""`hedgerow doctor` against brokers that can and cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hedgerow.broker import free_port
from hedgerow.cli import app
from hedgerow.processes import wait_for_port


def doctor(url: str) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(app, ["doctor", "--broker", url, "--json"])
    return result.exit_code, {(line := json.loads(text))["name"]: line for text in result.output.splitlines()}


def test_a_good_broker(broker_url: str) -> None:
    code, found = doctor(broker_url)
    assert code == 0
    assert found["retained messages"]["found"] == "kept"
    assert found["wills"]["found"] == "sent"
    assert found["access control"]["level"] == "limit"
    assert int(found["largest message"]["found"].split("+")[0].split()[0]) >= 127


@pytest.fixture
def poor_broker(tmp_path: Path) -> Iterator[str]:
    """Nothing retained, and small messages."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "retain_available false"]
    lines += ["message_size_limit 40000"]
    (tmp_path / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [program, "-c", str(tmp_path / "mosquitto.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert wait_for_port(port, process)
    yield f"mqtt://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_a_poor_broker(poor_broker: str) -> None:
    code, found = doctor(poor_broker)
    assert code == 1
    assert found["largest message"]["level"] == "bad"
    assert "allow messages of 66 KiB" in found["largest message"]["advice"]
    assert found["retained messages"]["level"] == "bad"
