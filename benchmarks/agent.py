"""What the agent costs, beside a Flower SuperNode: memory, idle CPU, time to connect, and `Device.predict`.

    python benchmarks/agent.py daemon model.tflite weights.safetensors
    python benchmarks/agent.py predict int8.tflite ... [--training model.tflite weights.safetensors]
    python benchmarks/agent.py supernode
    python benchmarks/agent.py install dist/hedgerow-*.whl

`daemon` counts every page of the agent's processes once, whatever other programs share. `predict` takes turns
between the runtime's own tensors, filled with integers that are ready (`interpreter`), the same with TFLite's
quantization written in numpy (`by hand`: what a program without Hedgerow has to do for the same answer), and
`Device.predict`, each with an interpreter of its own. A turn is 50 calls, as in a program that predicts again
and again. With `--turn 1` each call comes after the other ways' calls, which leave the runtime's code in the
caches and nothing of `Device.predict`'s own. `install` makes a bare environment with the wheel and [edge].
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

import iotcore
import numpy as np
import psutil

from hedgerow.broker import free_port
from hedgerow.edge import Device
from hedgerow.edge.assignment import Assignment, Bench
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.release import ReleaseStore
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.worker import ProcessWorker
from hedgerow.hardware import interpreter
from hedgerow.hardware.inference import Inference, dequantize, quantize
from hedgerow.hardware.process import resident_mib
from hedgerow.processes import wait_for_port
from hedgerow.protocol import blobs, messages
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import BlobReference
from hedgerow.protocol.signatures import SigningKey, sign_manifest
from hedgerow.protocol.topics import Topics

TOPICS = Topics("bench")
IDLE_SECONDS = 20.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BIN = Path(sys.executable).parent


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children, s."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(resident_mib(process.pid) for process in processes)


def wait_for(queue: SimpleQueue[LinkEvent], kind: type[Any]) -> Any:
    """The next message of a kind."""
    while True:
        event = queue.get(timeout=60)
        place = TOPICS.parse(event.topic) if isinstance(event, Received) else None
        if isinstance(event, Received) and place is not None:
            message = messages.decode(place, event.payload)
            if isinstance(message, kind):
                return message


def write_samples(folder: Path, program: Path, *, train: int = 450, test: int = 100) -> None:
    """Random examples of the shape that a trainable file takes."""
    folder.mkdir()
    with interpreter.load(program) as loaded:
        spec = loaded.signatures()["train"].inputs["x"]
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        x = generator.random((count, *spec.shape[1:]), np.float32)
        np.savez(folder / f"{split}.npz", x=x, y=(np.arange(count) % 3).astype(np.int32))


def measure_idle(name: str, pid: int) -> None:
    time.sleep(1.0)
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    print(f"{name:10} idle memory             {memory_mib(pid):8.1f} MiB")
    print(f"{name:10} idle CPU                {(cpu_seconds(pid) - before) / IDLE_SECONDS:8.2%}")


class PeakMemory:
    """How much more memory a process and its children take at most while the body runs than before.

    Every page counts once: those of files that any of them has in RAM, whoever else has them, too; and the
    rest by proportional set size. So it is the same whatever other programs on the machine share.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._idle = self._largest = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def added_mib(self) -> float:
        return self._largest - self._idle

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._largest = max(self._largest, self._now())

    def _now(self) -> float:
        anonymous_kib = 0
        of_files: dict[tuple[str, str], set[int]] = {}
        for process in (psutil.Process(self._pid), *psutil.Process(self._pid).children(recursive=True)):
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                anonymous_kib += _anonymous_kib(process.pid)
                for file, pages in _file_pages(process.pid):
                    of_files.setdefault(file, set()).update(pages)
        return anonymous_kib / 1024 + sum(map(len, of_files.values())) * PAGE_BYTES / 2**20


def _anonymous_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def _file_pages(pid: int) -> Iterator[tuple[tuple[str, str], list[int]]]:
    """The pages of each mapped file that a process has in RAM: bits 63 and 61 of /proc/PID/pagemap."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, _, offset, device, inode = line.split(maxsplit=5)[:5]
            if inode == "0":
                continue
            first, end = (int(number, 16) // PAGE_BYTES for number in place.split("-"))
            pagemap.seek(first * 8)
            flags = np.frombuffer(pagemap.read((end - first) * 8), np.uint64) >> np.uint64(61)
            pages = np.flatnonzero((flags & np.uint64(0b101)) == 0b101) + int(offset, 16) // PAGE_BYTES
            yield (device, inode), pages.tolist()


def measure_daemon(folder: Path, program: Path, weights: Path) -> None:
    """Start, idle, one training of 450 random digits."""
    write_samples(folder / "samples", program)
    port = free_port()
    with iotcore.Broker(port=port, listen="127.0.0.1", max_payload_size=1 << 20):
        url = f"mqtt://127.0.0.1:{port}"
        queue: SimpleQueue[LinkEvent] = SimpleQueue()
        link = MqttLink(Broker.from_url(url), client_id="bench", will=None, on_event=queue.put)
        assert isinstance(queue.get(timeout=10), Connected)
        link.subscribe([TOPICS.states, TOPICS.uplinks])
        config = AgentConfig(device="d1", fleet="bench", broker=url, folder="state", samples="samples")
        config.write(folder / "agent.toml")
        command = [sys.executable, "-m", "hedgerow.edge", "--config", str(folder / "agent.toml")]
        begun = time.monotonic()
        agent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(queue, messages.DeviceState)
            print(f"agent      start to connected      {time.monotonic() - begun:8.2f} s")
            measure_idle("agent", agent.pid)
            offered = {}
            for name, path in (("program", program), ("weights", weights)):
                data = path.read_bytes()
                offered[name] = blobs.reference(data)
                for number, chunk in enumerate(blobs.cut(data, messages.CHUNK_BYTES)):
                    link.publish(TOPICS.chunk(offered[name].sha256, number), chunk, retain=True)
            task = messages.Task(
                device="d1", epoch=1, counter=1, task="t", round=1, phase="train",
                config={"epochs": 3, "learning-rate": 0.05}, **offered,
            )  # fmt: skip
            begun = time.monotonic()
            with PeakMemory(agent.pid) as memory:
                link.publish(TOPICS.down("d1", "task"), messages.encode(task))
                update = wait_for(queue, messages.Update)
            print(f"agent      training takes          {memory.added_mib:8.1f} MiB more")
            print(f"agent      task to update          {time.monotonic() - begun:8.2f} s")
            print(f"agent      of that, work           {update.seconds:8.2f} s")
            settled = messages.Settled(device="d1", epoch=1, counter=2, task="t", accepted=True)
            link.publish(TOPICS.down("d1", "settled"), messages.encode(settled))
            state = wait_for(queue, messages.DeviceState)
            print(f"agent      both processes after    {state.capabilities['rss_mib']:8.1f} MiB")
            print(f"agent      training process, peak  {state.capabilities['training_peak_mib']:8.1f} MiB")
            begun = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            print(f"agent      SIGTERM, exit {agent.wait(10)}         {time.monotonic() - begun:8.2f} s")
        finally:
            agent.kill()
            agent.wait()
            link.close()


def measure_supernode(folder: Path) -> None:
    """A `flower-supernode` of the installed flwr: from its start until it has a connection, and idle."""
    port = free_port()
    environment = os.environ | {
        "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        superlink = subprocess.Popen(
            [str(BIN / "flower-superlink"), "--insecure", "--port", str(port)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        node = None
        try:
            assert wait_for_port(port, superlink, seconds=120.0), (folder / "log").read_text()[-2000:]
            words = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            begun = time.monotonic()
            command = [str(BIN / "flower-supernode"), *words]
            node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            while not connections(node.pid, port):
                assert node.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.01)
            print(f"supernode  start to connected      {time.monotonic() - begun:8.2f} s")
            measure_idle("supernode", node.pid)
        finally:
            for process in filter(None, (node, superlink)):
                children = psutil.Process(process.pid).children(recursive=True)
                process.terminate()
                process.wait(30)
                for child in children:
                    if child.is_running():
                        child.kill()


def connections(pid: int, port: int) -> bool:
    """Whether a process or one of its children has a connection to a port."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            found = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        if any(one.raddr and one.raddr.port == port and one.status == "ESTABLISHED" for one in found):
            return True
    return False


def install_release(folder: Path, file: Path) -> Device:
    """A device whose release is the file."""
    key = SigningKey.generate()
    key.verify_key.write(folder / "key.pem")
    with Inference(file) as inference:
        (spec,) = inference.spec.inputs.values()
        x = np.random.default_rng(1).random((1, *spec.shape[1:]), np.float32)
        np.savez(folder / "golden.npz", x=x, **{file.name: inference.predict(x)[0]})
    sources = {path.name: path for path in (file, folder / "golden.npz")}
    files = tuple(
        ModelFile(name, kind, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())  # type: ignore[arg-type]
        for (name, path), kind in zip(sources.items(), ("int8", "golden"), strict=True)
    )
    manifest = Manifest(name="bench", version="1.0.0", weights_digest="0" * 64, files=files)
    AgentConfig(
        device="d1",
        fleet="bench",
        broker="mqtt://b",
        folder="state",
        samples="samples",
        release_key="key.pem",
    ).write(folder / "agent.toml")
    store = ReleaseStore.of_device(AgentConfig.load(folder / "agent.toml"))
    store.install(sign_manifest(manifest, key), sources)
    return Device(folder)


def measure_predict(folder: Path, file: Path, *, calls: int, turn: int, title: str) -> float:
    """The runtime's own tensors and `Device.predict` in turns of some calls, one example at a time.

    Returns:
        The 95th percentile of `Device.predict`, us.
    """
    with (
        install_release(folder, file) as device,
        interpreter.load(file) as bare,
        interpreter.load(file) as by_hand,
    ):
        (spec,) = bare.signatures().values()
        (taken,), (given,) = spec.inputs.values(), spec.outputs.values()
        x = np.random.default_rng(1).random((1, *taken.shape[1:]), np.float32)
        ready = quantize(x, taken)
        first, second = bare.bind(), by_hand.bind()
        assert first is not None
        assert second is not None

        def run(binding: interpreter.Binding, values: Any) -> Any:
            binding.inputs[0]()[...] = values
            binding.run()
            return binding.outputs[0]().copy()

        ways: dict[str, Callable[[], Any]] = {
            "interpreter": lambda: run(first, ready),
            "by hand": lambda: dequantize(run(second, quantize(x, taken)), given),
            "Device.predict": lambda: device.predict(x),
        }
        # On a tie the runtime rounds an input to the other neighbour than numpy.
        np.testing.assert_allclose(ways["by hand"](), ways["Device.predict"](), atol=4 * given.scale)
        times: dict[str, list[float]] = {way: [] for way in ways}
        turns = list(ways.items())
        chance = Random(0)
        for _ in range(calls // turn):
            # What one finds in the caches depends on who was before.
            chance.shuffle(turns)
            for way, call in turns:
                for _ in range(turn):
                    begun = time.perf_counter()
                    call()
                    times[way].append((time.perf_counter() - begun) * 1e6)
    medians = {way: statistics.median(found) for way, found in times.items()}
    percentiles = {way: sorted(found)[int(len(found) * 0.95)] for way, found in times.items()}
    for way, median in medians.items():
        print(
            f"{title:24} {way:15} median {median:8.1f} us, {median / medians['interpreter']:5.3f} of"
            f" interpreter, {median / medians['by hand']:5.3f} of by hand;"
            f" 95th percentile {percentiles[way]:8.1f} us"
        )
    return percentiles["Device.predict"]


@contextmanager
def training(folder: Path, program: Path, weights: Path) -> Iterator[None]:
    """Trains without end in the agent's own training process while the body runs."""
    folder.mkdir()
    write_samples(folder / "samples", program)
    blob = BlobReference(sha256="0" * 64, size=1)
    task = messages.Task(
        device="d1", epoch=1, counter=1, task="t", round=1, phase="train", program=blob, weights=blob,
        config={"epochs": 10_000},
    )  # fmt: skip
    started = threading.Event()
    bench = Bench(samples=str(folder / "samples"), sampling=SamplePolicy(), results=str(folder / "results"))
    worker = ProcessWorker(bench, lambda event: started.set())
    worker.start(Assignment(device="d1", task=task, program=str(program), weights=str(weights)))
    try:
        assert started.wait(60)
        time.sleep(1.0)
        yield
    finally:
        worker.close()


def measure_install(folder: Path, wheel: Path) -> None:
    """The size of a bare environment that has the wheel with [edge], and what is in it."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "--quiet", "--no-compile", f"{wheel}[edge]"]
    subprocess.run(pip, check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # pip is the environment's own.
    sizes = {
        path.name: sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        for path in packages.iterdir()
        if not path.name.startswith(("pip", "setuptools"))
    }
    print(f"site-packages {sum(sizes.values()) / 1e6:.1f} MB")
    for name in sorted(sizes, key=lambda name: -sizes[name])[:8]:
        print(f"    {name:30} {sizes[name] / 1e6:6.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    daemon = commands.add_parser("daemon")
    daemon.add_argument("program", type=Path, help="A trainable .tflite.")
    daemon.add_argument("weights", type=Path, help="Its weights as safetensors.")
    predict = commands.add_parser("predict")
    predict.add_argument("files", type=Path, nargs="+", help="A .tflite for inference, int8.")
    predict.add_argument("--training", type=Path, nargs=2, metavar=("PROGRAM", "WEIGHTS"))
    predict.add_argument("--calls", type=int, default=3000)
    predict.add_argument("--turn", type=int, default=50, help="Calls of one way before another's.")
    commands.add_parser("supernode")
    commands.add_parser("install").add_argument("wheel", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match arguments.command:
            case "daemon":
                measure_daemon(folder, arguments.program, arguments.weights)
            case "supernode":
                measure_supernode(folder)
            case "install":
                measure_install(folder, arguments.wheel.absolute())
            case "predict":
                for number, file in enumerate(arguments.files):
                    title = f"{file.parent.name}/{file.stem}"[-24:]
                    (folder / str(number)).mkdir()
                    quiet = measure_predict(
                        folder / str(number),
                        file,
                        calls=arguments.calls,
                        turn=arguments.turn,
                        title=title,
                    )
                    if arguments.training:
                        (folder / f"{number}-busy").mkdir()
                        with training(folder / f"{number}-busy" / "work", *arguments.training):
                            busy = measure_predict(
                                folder / f"{number}-busy",
                                file,
                                calls=arguments.calls,
                                turn=arguments.turn,
                                title="  while it trains",
                            )
                        print(
                            f"  95th percentile of Device.predict while it trains: {busy / quiet:.2f} times"
                        )


if __name__ == "__main__":
    main()
