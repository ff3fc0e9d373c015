"""agent.toml, and what the command line makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedgerow.edge.config import AgentConfig
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.spool import Spool
from hedgerow.edge.status import AgentStatus, Connection
from hedgerow.errors import AgentConfigError

CONFIG = AgentConfig(
    device="barn-7", fleet="farm", broker="mqtts://u:p@broker.example:8884", folder="/srv/state",
    samples="/srv/samples", runtime="litert", num_threads=2, blob_limit_mib=64, log_level="debug",
    niceness=5, memory_limit_mib=300, sampling=SamplePolicy(limit=50, keep="newest", encrypted=True),
)  # fmt: skip


def test_a_configuration_round_trips_through_toml(tmp_path: Path) -> None:
    CONFIG.write(tmp_path / "agent.toml")
    assert AgentConfig.load(tmp_path / "agent.toml") == CONFIG


def test_relative_folders_count_from_the_file(tmp_path: Path) -> None:
    msgspec.structs.replace(CONFIG, folder="state", samples="../samples").write(tmp_path / "agent.toml")
    loaded = AgentConfig.load(tmp_path / "agent.toml")
    assert loaded.folder == str(tmp_path / "state")
    assert Path(loaded.samples).resolve() == tmp_path.parent / "samples"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "Barn 7"}, "device id"),
        ({"fleet": ""}, "fleet name"),
        ({"broker": "http://x"}, "mqtt://"),
        ({"folder": ""}, "'folder'"),
        ({"num_threads": 0}, "'num_threads' from 1"),
        ({"niceness": 20}, "to 19"),
        ({"blob_limit_mib": 5000}, "to 2048"),
        ({"runtime": "torch"}, "tflite, litert"),
        ({"log_level": "loud"}, "debug, info"),
    ],
)
def test_a_value_outside_its_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentConfigError, match=message):
        msgspec.structs.replace(CONFIG, **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("device = ", "Invalid"),
        ('device = "d1"', "missing required field"),
        (CONFIG.to_toml() + "colour = 1\n", "colour"),
        (CONFIG.to_toml().replace("num_threads = 2", 'num_threads = "two"'), "num_threads"),
    ],
    ids=["no file", "no TOML", "incomplete", "unknown field", "type"],
)
def test_a_file_that_cannot_be_used_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AgentConfigError, match=message):
        AgentConfig.load(path)


def test_the_agent_ends_with_one_line_and_the_error_s_own_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hedgerow.edge", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == AgentConfigError.exit_code
    assert len(done.stderr.splitlines()) == 1


def test_the_daemon_loads_nothing_that_it_does_not_need() -> None:
    heavy = "numpy typer rich tensorflow keras flwr grpc torch cryptography safetensors tflite_runtime"
    script = f"import sys, hedgerow.edge.__main__; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_status_of_a_running_and_of_a_stopped_agent(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, folder=str(tmp_path))
    with Spool(tmp_path) as spool:
        incarnation = spool.begin()
        spool.forget("t1")
        Connection(connected=True, broker="mqtt://b:1883", pid=17).write(tmp_path)
        running = AgentStatus.read(config)
    assert running == AgentStatus(
        device="barn-7", running=True, connected=True, reason="", broker="mqtt://b:1883", pid=17,
        incarnation=incarnation, waiting=(), settled=1,
    )  # fmt: skip
    stopped = AgentStatus.read(config)
    assert (stopped.running, stopped.connected, stopped.pid) == (False, False, 0)
    config.write(tmp_path / "agent.toml")
    script = "from hedgerow.agent_cli import app; app()"
    command = [sys.executable, "-c", script, "status", "--json", "--config", str(tmp_path / "agent.toml")]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert json.loads(shown.stdout)["settled"] == 1
