"""What a coordinator shows of itself: status, metrics, TensorBoard's files, log lines."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from hedgerow.coordinator import events
from hedgerow.coordinator.logs import JsonFormatter
from hedgerow.coordinator.metrics import Metrics
from hedgerow.coordinator.records import RoundRecord
from hedgerow.coordinator.status import Status, StatusFile, read_status
from hedgerow.coordinator.summaries import RoundSummaries, masked_crc32c
from hedgerow.coordinator_cli import app
from hedgerow.protocol.messages import BlobReference

Fixture = Any
RECORD = RoundRecord(
    round=3,
    devices=4,
    device_loss=0.5,
    device_accuracy=0.75,
    held_out_loss=None,
    held_out_accuracy=None,
    seconds=2.0,
    bytes_down=1_000_000,
    bytes_up=4_000_000,
    weights=BlobReference(sha256="a" * 64, size=10, codec="f32"),
)


def test_the_checksum_is_castagnoli() -> None:
    crc = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283, (
        "RFC 3720, section B.4, and every table of CRCs"
    )


READER = """
import json, sys
import tensorflow as tf
found = []
for record in tf.data.TFRecordDataset(sys.argv[1]).as_numpy_iterator():
    event = tf.compat.v1.Event.FromString(record)
    found += [[event.step, value.tag, value.simple_value] for value in event.summary.value]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_tensorflow_reads_the_summaries(tmp_path: Path) -> None:
    summaries = RoundSummaries(tmp_path)
    summaries(events.RoundEnded(record=RECORD))
    (path,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)], capture_output=True, text=True, timeout=200
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [3, "devices/accuracy", 0.75] in found
    assert [3, "round/megabytes_up", 4.0] in found
    assert "held_out/loss" not in {tag for _, tag, _ in found}


def test_the_records_of_an_event_file(tmp_path: Path) -> None:
    summaries = RoundSummaries(tmp_path)
    summaries.scalars({"a": 1.5}, step=300)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    bodies = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        body = data[12 : 12 + length]
        assert struct.unpack_from("<I", data, 8)[0] == masked_crc32c(data[:8])
        assert struct.unpack_from("<I", data, 12 + length)[0] == masked_crc32c(body)
        bodies.append(body)
        data = data[16 + length :]
    assert bodies[0].endswith(b"brain.Event:2")
    assert bodies[1].endswith(b"\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 1.5))


def test_metrics() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics(events.Started(epoch=2, round=1, rounds=3))
    metrics(events.PhaseOpened(round=1, phase="train", devices=("a", "b")))
    counted = {"device": "a", "round": 1, "phase": "train", "num_examples": 3, "metrics": {}}
    metrics(events.UpdateCounted(**counted))
    metrics(events.UpdateRefused(device="b", task="t", reason="no"))
    metrics(events.RoundEnded(record=RECORD))
    read = registry.get_sample_value
    assert read("hedgerow_tasks_total", {"phase": "train"}) == 2
    assert read("hedgerow_updates_total", {"phase": "train"}) == 1
    assert read("hedgerow_refusals_total") == 1
    assert read("hedgerow_bytes_total", {"direction": "up"}) == 4_000_000
    assert read("hedgerow_model", {"metric": "accuracy", "data": "device"}) == 0.75
    assert read("hedgerow_round_seconds_count") == 1


def test_a_log_line_is_an_object() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, __file__, 1, 'said "%s"', ("x",), None)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "a.b", 'said "x"')
    assert line["time"].endswith("+00:00")


def test_status_says_whether_the_process_is_there(tmp_path: Path) -> None:
    StatusFile(tmp_path, lambda: ())(events.Started(epoch=1, round=1, rounds=2))
    status = Status(
        **{k: v for k, v in json.loads((tmp_path / "status.json").read_text()).items() if k != "devices"}
    )
    assert status.running
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not Status(pid=ended.pid).running
    assert not Status().running


def test_a_status_that_a_power_failure_has_spoilt_is_none(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_bytes(b"\0" * 100)
    assert read_status(tmp_path) == Status()


def test_the_commands(mosquitto: str, make_rig: Fixture) -> None:
    rig = make_rig(mosquitto)
    rig.configure(start_devices=3, minimum_devices=3)
    rig.start_devices(3)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    config = ["--config", str(rig.folder / "hedgerow.toml")]

    def say(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *config])
        assert result.exit_code == 0, result.output
        return result.output

    status = json.loads(say("status", "--json"))
    assert (status["round"], status["rounds"], status["pid"]) == (2, 2, 0)
    assert "not running" in say("status")
    lines = [json.loads(line) for line in say("devices", "--json").splitlines()]
    assert [(d["device"], d["updates"], d["last_round"]) for d in lines] == [
        (f"d000{number}", 2, 2) for number in range(3)
    ]
    assert lines[0]["bytes_up"] == 2 * 160_164
    assert "d0001" in say("devices")
    of_one = [json.loads(line) for line in say("devices", "--round", "1", "--json").splitlines()]
    assert [(d["updates"], d["last_round"], d["bytes_up"]) for d in of_one] == [(1, 1, 160_164)] * 3
    assert [json.loads(line)["devices"] for line in say("rounds", "--json").splitlines()] == [3, 3]
    assert "MB down" in say("rounds")
