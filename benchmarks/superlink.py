"""One Flower app over Hedgerow and over Flower's own SuperLink and SuperNodes, interleaved on one machine.

    python benchmarks/superlink.py [--nodes 2] [--rounds 5] [--repeats 3] [--megabytes 1]
    python benchmarks/superlink.py --replies 100 --megabytes 20      # the coordinator's memory

The app (`superlink_app/`) sends arrays to and fro and computes nothing. Round: from one global evaluation to
the next, training and evaluation on every node, without the first round, in which both load the app. Idle:
resident memory of a node's processes, connected and 30 s after its last task. Coordinator: the peak of what
runs the ServerApp and hears the nodes, all processes together; brokers are shown apart. With --replies, one
round of so many messages, dealt out to the nodes: no machine holds a hundred SuperNodes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hedgerow.broker import free_port
from hedgerow.processes import wait_for_port

APP = Path(__file__).with_name("superlink_app")
BIN = Path(sys.executable).parent
IDLE_SECONDS = 30.0
LIMIT_SECONDS = 1800.0


class Peak(threading.Thread):
    """The largest resident memory that a process and its descendants have together, MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mib, self._process, self._ended = 0.0, psutil.Process(pid), threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            self.mib = max(self.mib, resident_mib(self._process))

    def stop(self) -> float:
        self._ended.set()
        self.join()
        return self.mib


def resident_mib(process: psutil.Process) -> float:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0.0
    return total / 2**20


@contextmanager
def running(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped, with its descendants, at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=os.environ | environment
        )
    try:
        yield process
    finally:
        family: list[psutil.Process] = []
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in family:
            if one.is_running():
                one.kill()


@dataclass
class Found:
    """What one run has given."""

    rounds: list[float] = field(default_factory=list)
    coordinator_mib: float = 0.0
    idle_mib: float = 0.0
    broker_mib: float = 0.0


class Bench(ABC):
    """The processes of one side in a folder of their own."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.arguments, self.folder, self.stack = arguments, folder, stack
        self.out = folder / "times.json"
        self.log = folder / "log"

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.stack.enter_context(running(*command, log=self.log, **environment))

    @property
    def run_config(self) -> str:
        a = self.arguments
        values = f"nodes={a.nodes} rounds={a.rounds} megabytes={a.megabytes} replies={a.replies}"
        return f"{values} out='{self.out}'"

    def measure(self) -> Found:
        found = self.run()
        times = json.loads(self.out.read_text())
        found.rounds = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
        return found

    @abstractmethod
    def run(self) -> Found:
        """Runs the app once."""

    def finished(self, done: Any) -> None:
        until = time.monotonic() + LIMIT_SECONDS
        while not done():
            assert time.monotonic() < until, f"no end: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def idle(self, nodes: list[subprocess.Popen[bytes]]) -> float:
        if not self.arguments.idle:
            return 0.0
        time.sleep(IDLE_SECONDS)
        return statistics.median(resident_mib(psutil.Process(node.pid)) for node in nodes)


class Hedgerow(Bench):
    """Mosquitto, `hedgerow flower run` and an agent for each node."""

    def run(self) -> Found:
        port = free_port()
        broker = f"mqtt://127.0.0.1:{port}"
        (self.folder / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
        )
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert program, "mosquitto is not installed"
        mosquitto = self.start(program, "-c", str(self.folder / "mosquitto.conf"))
        assert wait_for_port(port, mosquitto)
        hedgerow = (sys.executable, "-m", "hedgerow", "flower")
        common = (str(APP), "--broker", broker, "--fleet", "echo", "--folder")
        nodes = [
            self.start(*hedgerow, "agent", *common, str(self.folder / f"n{n}"), "--device", f"n{n}")
            for n in range(self.arguments.nodes)
        ]
        server = self.start(
            *hedgerow, "run", *common, str(self.folder / "server"), "--run-config", self.run_config
        )
        peak, of_broker = Peak(server.pid), Peak(mosquitto.pid)
        self.finished(lambda: server.poll() is not None)
        assert server.returncode == 0, self.log.read_text()[-3000:]
        return Found([], peak.stop(), self.idle(nodes), of_broker.stop())


class SuperLink(Bench):
    """`flower-superlink`, a `flower-supernode` for each node, and `flwr run`."""

    def run(self) -> Found:
        home = self.folder / "flwr"
        home.mkdir()
        port = free_port()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n'
            f'[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        environment = {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        superlink = self.start(
            str(BIN / "flower-superlink"),
            "--insecure",
            "--port",
            str(port),
            "--disable-runtime-dependency-installation",
            **environment,
        )
        assert wait_for_port(port, superlink, seconds=120.0), self.log.read_text()[-3000:]
        nodes = [
            self.start(
                str(BIN / "flower-supernode"),
                "--insecure",
                "--superlink",
                f"127.0.0.1:{port}",
                "--port",
                str(free_port()),
                **environment,
            )
            for _ in range(self.arguments.nodes)
        ]
        peak = Peak(superlink.pid)
        # `flwr run` packs the app's folder: what it writes there must not end up in ours.
        app = shutil.copytree(APP, self.folder / "app")
        run = [str(BIN / "flwr"), "run", str(app), "bench", "--run-config", self.run_config]
        subprocess.run(run, check=True, env=os.environ | environment, stdout=subprocess.DEVNULL, timeout=300)
        self.finished(self.out.exists)
        return Found([], peak.stop(), self.idle(nodes))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--replies", type=int, default=0)
    parser.add_argument("--no-idle", dest="idle", action="store_false", help="do not wait for idle memory")
    arguments = parser.parse_args()
    found: dict[str, list[Found]] = {"Hedgerow": [], "SuperLink": []}
    for repeat in range(1 if arguments.replies else arguments.repeats):
        for side in (Hedgerow, SuperLink):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                found[side.__name__].append(side(arguments, Path(folder), stack).measure())
            one = found[side.__name__][-1]
            shown = " ".join(f"{seconds:.3f}" for seconds in one.rounds)
            print(
                f"{repeat + 1} {side.__name__:9} coordinator {one.coordinator_mib:.0f} MiB"
                f" (broker {one.broker_mib:.0f}), idle node {one.idle_mib:.0f} MiB, rounds {shown}",
                flush=True,
            )
    ours, theirs = found["Hedgerow"], found["SuperLink"]
    if not arguments.replies:
        medians = [statistics.median(s for one in side for s in one.rounds) for side in (ours, theirs)]
        ratio = medians[1] / medians[0]
        print(f"round: {medians[0]:.3f} s against {medians[1]:.3f} s, {ratio:.1f} times shorter")
    for what in ("idle_mib", "coordinator_mib"):
        values = [statistics.median(getattr(one, what) for one in side) for side in (ours, theirs)]
        if values[1]:
            print(f"{what}: {values[0]:.0f} against {values[1]:.0f} MiB, {values[0] / values[1]:.2f} of it")


if __name__ == "__main__":
    main()
