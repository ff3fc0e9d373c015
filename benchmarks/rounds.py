"""Rounds at 10, 100, 1,000 and 2,000 simulated devices over Mosquitto: seconds and memory.

    python benchmarks/rounds.py [--devices 10 100 1000] [--numbers 50000] [--rounds 2]

A real coordinator (on a stand-in for the trainable file), a real broker, the agent's own sessions in one
process (`simulated_fleet.py`). `join`: from the first device on the roster to the last; `round`:
training and evaluation; `tasks`: until 95 % of the devices have heard their task. Processor time is of
the whole run, with the start: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
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

HERE = Path(__file__).parent
LAUNCH = HERE.parent / "tests" / "coordinator" / "launch.py"


class Usage(threading.Thread):
    """The largest resident memory of processes, MiB, and the processor time they have taken, s."""

    def __init__(self, **processes: int) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(processes, 0.0)
        self.seconds = dict.fromkeys(processes, 0.0)
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self.start()

    def run(self) -> None:
        while True:
            for name, process in self._processes.items():
                try:
                    self.peaks[name] = max(self.peaks[name], process.memory_info().rss / 2**20)
                    used = process.cpu_times()
                    self.seconds[name] = used.user + used.system
                except psutil.NoSuchProcess:
                    return
            time.sleep(0.2)


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
            running(*launch, stdout=subprocess.PIPE, stderr=log) as coordinator,
        ):
            assert coordinator.stdout is not None
            events = iter(coordinator.stdout)
            assert json.loads(next(events))["event"] == "started"
            with running(*fleet_command, stdout=quiet, stderr=log) as fleet:
                usage = Usage(coordinator=coordinator.pid, broker=mosquitto.pid, fleet=fleet.pid)
                found = _follow(events, history)
                found |= {f"{name} MiB": peak for name, peak in usage.peaks.items() if name != "fleet"}
                return found | {f"{name} CPU s": seconds for name, seconds in usage.seconds.items()}


def _follow(events: Iterator[bytes], history: Path) -> dict[str, Any]:
    started, opened, seconds, joined = 0.0, [], [], 0.0
    for line in events:
        event = json.loads(line)
        now = time.time()
        if event["event"] == "devices_online" and event["online"] > 0 and not started:
            started = now
        if event["event"] == "phase_opened":
            joined = joined or (now - started if started else 0.0)
            opened.append(now)
        if event["event"] == "round_ended":
            seconds.append(event["record"]["seconds"])
    asked = [json.loads(line) for line in history.read_text().splitlines()]
    heard = sorted(line["at"] for line in asked if line["what"] == "asked" and line["at"] >= opened[-2])
    first = [at - opened[-2] for at in heard if at < opened[-1]]
    return {
        "join s": joined,
        "round s": min(seconds),
        "tasks s (95 %)": first[int(len(first) * 0.95)] if first else float("nan"),
    }


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
