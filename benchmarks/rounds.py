"""Rounds at 10, 100, 1,000 and 2,000 simulated devices over Mosquitto: seconds and memory.

    python benchmarks/rounds.py [--devices 10 100 1000] [--numbers 50000] [--rounds 2]

A real coordinator (on a stand-in for the trainable file), a real broker, the agent's own sessions in one
process (`simulated_fleet.py`). `join`: from the first device on the roster to the last; `round`: training
and evaluation; `command`: 95 % of the messages to devices (tasks, grants, settlements) reached a client of
their topics in so long, while blobs flow. Processor time is of a round, by role: on a busy machine it says
more than the clock, and `ideal` is their sum on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hedgerow.broker import free_port
from hedgerow.coordinator.config import CoordinatorConfig
from hedgerow.processes import wait_for_port
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.topics import Topics

HERE = Path(__file__).parent
LAUNCH = HERE.parent / "tests" / "coordinator" / "launch.py"


class Usage(threading.Thread):
    """The largest resident memory of processes, MiB, and the processor time they have taken."""

    def __init__(self, **processes: int) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(processes, 0.0)
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self.start()

    def now(self) -> dict[str, float]:
        used = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: times.user + times.system for name, times in used.items()}

    def run(self) -> None:
        while True:
            for name, process in self._processes.items():
                try:
                    self.peaks[name] = max(self.peaks[name], process.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    return
            time.sleep(0.2)


class Observer:
    """Hears every command to a device, as the device would, and notes when."""

    def __init__(self, broker: str, fleet: str) -> None:
        self._topics, self.heard = Topics(fleet), dict[tuple[str, int], float]()
        self.link = MqttLink(Broker.from_url(broker), client_id="observer", will=None, on_event=self._hear)

    def _hear(self, event: LinkEvent) -> None:
        now = time.time()
        if isinstance(event, Connected):
            self.link.subscribe([self._topics.down("+", "+")])
        elif isinstance(event, Received):
            said = json.loads(event.payload)
            self.heard.setdefault((said["device"], said["counter"]), now)

    def seconds(self, sent: Path) -> list[float]:
        """How long each command was on its way, sorted."""
        lines = (line.split() for line in sent.read_text().splitlines())
        on_the_way = [
            self.heard[device, int(counter)] - float(at)
            for at, device, counter in lines
            if (device, int(counter)) in self.heard
        ]
        return sorted(on_the_way)


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(devices: int, *, numbers: int, rounds: int, folder: Path) -> dict[str, Any]:
    port, quiet = free_port(), subprocess.DEVNULL
    broker = f"mqtt://127.0.0.1:{port}"
    conf = folder / "mosquitto.conf"
    conf.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 10000\n"
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program, "mosquitto is not installed"
    (folder / "model.tflite").write_bytes(b"stand-in")
    config = CoordinatorConfig(
        broker=broker,
        fleet="bench",
        model=Path("model.tflite"),
        rounds=rounds,
        round_seconds=300.0,
        start_devices=devices,
        minimum_devices=devices,
        over_selection=1.0,
        uploads=32,
    )
    config.write(folder / "hedgerow.toml")
    history = folder / "history.jsonl"
    launch = [sys.executable, str(LAUNCH), str(folder / "hedgerow.toml"), str(numbers)]
    fleet_command = [sys.executable, str(HERE / "simulated_fleet.py"), "--broker", broker, "--fleet", "bench"]
    fleet_command += ["--devices", str(devices), "--work-seconds", "0.1", "--history", str(history)]
    with running(program, "-c", str(conf), stdout=quiet, stderr=quiet) as mosquitto:
        assert wait_for_port(port, mosquitto)
        with (
            (folder / "log").open("wb") as log,
            running(
                *launch,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"LAUNCH_COMMANDS": str(folder / "commands")},
            ) as coordinator,
        ):
            assert coordinator.stdout is not None
            events = iter(coordinator.stdout)
            assert json.loads(next(events))["event"] == "started"
            with running(*fleet_command, stdout=quiet, stderr=log) as fleet:
                usage = Usage(coordinator=coordinator.pid, broker=mosquitto.pid, fleet=fleet.pid)
                observer = Observer(broker, "bench")
                found, cpu = _follow(events, usage)
                coordinator.wait(60)
                observer.link.close()
                seconds = observer.seconds(folder / "commands")
                found["command s"] = seconds[int(len(seconds) * 0.95)]
                found |= {f"{name} MiB": peak for name, peak in usage.peaks.items() if name != "fleet"}
                found |= {f"{name} CPU s": value for name, value in cpu.items()}
                return found | {"ideal s": sum(cpu.values()) / 2}


def _follow(events: Iterator[bytes], usage: Usage) -> tuple[dict[str, Any], dict[str, float]]:
    """The times of a run, and each role's processor time in its last round."""
    started, seconds, joined = 0.0, [], 0.0
    marks: list[dict[str, float]] = []
    for line in events:
        event = json.loads(line)
        now = time.time()
        if event["event"] == "devices_online" and event["online"] > 0 and not started:
            started = now
        if event["event"] == "phase_opened":
            joined = joined or (now - started if started else 0.0)
            marks = marks or [usage.now()]
        if event["event"] == "round_ended":
            seconds.append(event["record"]["seconds"])
            marks.append(usage.now())
    cpu = {name: marks[-1][name] - marks[-2][name] for name in marks[-1]}
    return {"join s": joined, "round s": min(seconds)}, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1000, 2000])
    parser.add_argument("--numbers", type=int, default=50_000, help="weights of the model, 4 bytes each")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    header = ""
    for devices in arguments.devices:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(devices, numbers=arguments.numbers, rounds=arguments.rounds, folder=Path(folder))
        if not header:
            header = " ".join(f"{name:>16}" for name in found)
            print(f"{'devices':>8} {header}")
        print(f"{devices:>8} " + " ".join(f"{value:>16.2f}" for value in found.values()), flush=True)


if __name__ == "__main__":
    main()
