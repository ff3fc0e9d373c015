"""The demo as a user runs it: to its end, interrupted, with a device killed, and refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received

COMMAND = [sys.executable, "-m", "hedgerow", "demo"]
SMALL = ["--devices", "3", "--rounds", "2", "--epochs", "1"]


@contextmanager
def demo(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demo with its output in a file."""
    with log.open("wb") as out:
        process = subprocess.Popen([*COMMAND, *arguments], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], *, seconds: float = 180.0) -> None:
    """Until the demo has printed `text`."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no {text!r} in {log.read_text()}"
        time.sleep(0.05)


def processes_that_name(text: str) -> list[psutil.Process]:
    """Every process whose command line has `text` in it, but for this one and those above it."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and any(text in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def retained_on(url: str) -> list[Received]:
    """The retained messages of every fleet on a broker."""
    events: list[LinkEvent] = []
    with closing(MqttLink(Broker.from_url(url), client_id="look", will=None, on_event=events.append)) as link:
        deadline = time.monotonic() + 10
        while not any(isinstance(event, Connected) for event in events):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        link.subscribe(["hedgerow/#"])
        time.sleep(1.0)
    return [event for event in events if isinstance(event, Received) and event.retained]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["FedAvg"])
def test_to_its_end_on_a_users_own_broker(mosquitto: str, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [*COMMAND, *SMALL, "--strategy", strategy, "--broker", mosquitto, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report["model"] == "digits-convnet"
    assert (report["devices"], report["seed"]) == (3, 0)
    assert set(report["accuracy"]) >= {"central_float", "central_int8", "federated_float", "federated_int8"}
    assert report["accuracy"]["federated_float"] > report["accuracy"]["central_float"]
    assert [r["devices"] for r in report["rounds"]] == [3, 3]
    weights_bytes = report["rounds"][1]["bytes_down"]
    assert report["rounds"][1]["bytes_up"] == 3 * weights_bytes
    for agent in report["agents"]:
        assert agent["modules_forbidden"] == []
        assert 10 < agent["rss_mib"] <= 100
        assert agent["runtime"].startswith(("tflite", "litert"))
    assert len({agent["pid"] for agent in report["agents"]}) == 3
    assert [(t["target"], t["npu_percent"]) for t in report["targets"]] == [("ethos-u55-128", 100.0)]
    for file in report["files"].values():
        assert (out / file).is_file()
    assert "<svg" in (out / "report.html").read_text() or "data:image" in (out / "report.html").read_text()
    assert list((out / "summaries").rglob("events.out.tfevents.*"))
    assert {log.stem for log in (out / "logs").glob("*.log")} >= {"coordinator", "demo", "device-01"}
    assert not processes_that_name(str(out))
    assert not retained_on(mosquitto), "nothing of ours stays on a broker that is not ours"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "trained centrally"), (signal.SIGTERM, "round 1"), (signal.SIGINT, "")],
    ids=["ctrl-c while it converts", "sigterm in the rounds", "ctrl-c at its start"],
)
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with demo(*SMALL, "--rounds", "50", "--out", str(out), log=log) as process:
        if moment:
            wait_for(moment, log, process)
        else:
            deadline = time.monotonic() + 60
            while not out.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 128 + number, log.read_text()
    assert not out.exists()
    assert not processes_that_name(str(out))
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_device_killed_in_a_round_does_not_hang_it(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = [*SMALL, "--rounds", "4", "--round-seconds", "12", "--out", str(out)]
    with demo(*arguments, log=log) as process:
        wait_for("round 1", log, process)
        (agent,) = processes_that_name(str(out / "devices" / "device-02"))
        agent.kill()
        assert process.wait(240) == 0, log.read_text()
    devices = [r["devices"] for r in json.loads((out / "report.json").read_text())["rounds"]]
    assert (devices[0], devices[-1]) == (3, 2)


@pytest.mark.slow
def test_killed_itself_it_leaves_no_process(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with demo(*SMALL, "--rounds", "50", "--out", str(out), log=log) as process:
        wait_for("round 1", log, process)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while left := processes_that_name(str(out)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_what_cannot_be_is_one_line_and_a_code_of_its_own(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = {
            ("--out", str(full)): (81, "Expected an empty or new folder"),
            ("--port", port): (82, f"received {port}"),
            ("--broker", "mqtt://127.0.0.1:1"): (56, "refused"),
            ("--broker", "http://x"): (55, "Expected mqtt://"),
            ("--devices", "0"): (2, "--devices"),
            ("--runtime", "onnx"): (2, "Expected --runtime"),
            ("--model", "no-such-model"): (None, "no-such-model"),
            ("--strategy", "no-such-strategy"): (73, "no-such-strategy"),
        }
        running = {}
        for number, options in enumerate(cases):
            out = [] if options[0] == "--out" else ["--out", str(tmp_path / f"out-{number}")]
            command = [*COMMAND, *out, *options]
            running[options] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        for options, (code, words) in cases.items():
            said, _ = running[options].communicate(timeout=120)
            assert "Traceback" not in said, said
            assert words in said, said
            assert code is None or running[options].returncode == code, said
            assert running[options].returncode != 0
    assert (full / "mine").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["full"], "a refused demo leaves no folder"
