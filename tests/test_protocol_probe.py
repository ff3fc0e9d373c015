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


def doctor(url: str, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(app, ["doctor", "--broker", url, "--json", *options])
    return result.exit_code, {(line := json.loads(text))["name"]: line for text in result.output.splitlines()}


def test_a_good_broker(broker_url: str) -> None:
    code, found = doctor(broker_url)
    assert code == 0
    assert found["retained messages"]["found"] == "kept"
    assert found["wills"]["found"] == "sent"
    assert found["sessions"]["found"] in ("kept while a client is away", "not kept")
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


RULES = [
    "pattern read hedgerow/v1/farm/all/#",
    "pattern read hedgerow/v1/farm/d/%c/down/+",
    "pattern write hedgerow/v1/farm/d/%c/state",
    "pattern write hedgerow/v1/farm/d/%c/up/+",
    "user coordinator",
    "topic readwrite hedgerow/v1/farm/#",
]


@pytest.mark.parametrize(
    ("hole", "named"),
    [
        ("", ""),
        ("pattern write hedgerow/v1/farm/d/+/up/+", "a device speaks for others"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("pattern read hedgerow/v1/farm/#", "a device reads others' commands"),
                ("pattern write hedgerow/v1/farm/d/+/state", "a device gives birth to others"),
                ("pattern write hedgerow/v1/farm/d/+/down/+", "a device commands others"),
                ("pattern write hedgerow/v1/farm/all/blob/#", "a device changes models"),
                ("pattern write hedgerow/v1/farm/all/coordinator", "a device speaks for the coordinator"),
            ]
        ),
    ],
)
def test_holes_in_access_rules(hole: str, named: str, tmp_path: Path) -> None:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto is not installed")
    port, users = free_port(), tmp_path / "users"
    for number, user in enumerate(("coordinator", "d1")):
        create = ["-c"] if number == 0 else []
        command = ["mosquitto_passwd", "-b", *create, str(users), user, "secret"]
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "acl").write_text("\n".join([hole, *RULES]) + "\n")
    lines = [f"listener {port} 127.0.0.1", "user root", "allow_anonymous false", "set_tcp_nodelay true"]
    lines += [f"password_file {users}", f"acl_file {tmp_path / 'acl'}"]
    (tmp_path / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [program, "-c", str(tmp_path / "mosquitto.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for_port(port, process)
        options = ["--as-device", f"mqtt://d1:secret@127.0.0.1:{port}", "--fleet", "farm", "--device", "d1"]
        code, found = doctor(f"mqtt://coordinator:secret@127.0.0.1:{port}", *options)
    finally:
        process.kill()
        process.wait()
    assert code == bool(hole)
    assert {name for name, finding in found.items() if finding["level"] == "bad"} == ({named} - {""})
    if hole:
        assert "A hole in the access rules" in found[named]["advice"]


def test_access_is_asked_for_in_full() -> None:
    result = CliRunner().invoke(app, ["doctor", "--broker", "mqtt://127.0.0.1:1", "--fleet", "farm"])
    assert "together" in str(result.exception)
