"""What the agent costs: memory, CPU when idle, time to connect, and what `Device.predict` adds.

Run it with the trainable file and, for the prediction, an inference file of a model:

    python benchmarks/agent.py model.tflite weights.safetensors --inference model-int8.tflite
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import iotcore
import numpy as np

from hedgerow.edge import Device
from hedgerow.edge.config import AgentConfig
from hedgerow.edge.release import ReleaseStore
from hedgerow.hardware import interpreter
from hedgerow.hardware.inference import Inference
from hedgerow.hardware.process import resident_mib
from hedgerow.protocol import blobs, messages
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.signatures import SigningKey, sign_manifest
from hedgerow.protocol.topics import Topics

TOPICS = Topics("bench")
IDLE_SECONDS = 20.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from /proc/PID/stat, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(queue: SimpleQueue[LinkEvent], kind: type[Any]) -> Any:
    """The next message of a kind."""
    while True:
        event = queue.get(timeout=60)
        place = TOPICS.parse(event.topic) if isinstance(event, Received) else None
        if isinstance(event, Received) and place is not None:
            message = messages.decode(place, event.payload)
            if isinstance(message, kind):
                return message


def measure_daemon(folder: Path, program: Path, weights: Path) -> None:
    """Start, idle, one training of 450 random digits."""
    samples = folder / "samples"
    samples.mkdir()
    with interpreter.load(program) as loaded:
        spec = loaded.signatures()["train"].inputs["x"]
    generator = np.random.default_rng(0)
    for split, count in (("train", 450), ("test", 100)):
        x = generator.random((count, *spec.shape[1:]), np.float32)
        np.savez(samples / f"{split}.npz", x=x, y=(np.arange(count) % 3).astype(np.int32))
    with iotcore.Broker(port=18830, listen="127.0.0.1", max_payload_size=1 << 20):
        url = "mqtt://127.0.0.1:18830"
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
            print(f"start to connected      {time.monotonic() - begun:8.2f} s")
            time.sleep(1.0)
            before = cpu_seconds(agent.pid)
            time.sleep(IDLE_SECONDS)
            print(f"idle memory             {resident_mib(agent.pid):8.1f} MiB")
            print(f"idle CPU                {(cpu_seconds(agent.pid) - before) / IDLE_SECONDS:8.2%}")
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
            link.publish(TOPICS.down("d1", "task"), messages.encode(task))
            update = wait_for(queue, messages.Update)
            print(
                f"task to update          {time.monotonic() - begun:8.2f} s, {update.seconds:.2f} s of work"
            )
            settled = messages.Settled(device="d1", epoch=1, counter=2, task="t", accepted=True)
            link.publish(TOPICS.down("d1", "settled"), messages.encode(settled))
            state = wait_for(queue, messages.DeviceState)
            print(f"memory after training   {state.capabilities['rss_mib']:8.1f} MiB, both processes")
            print(f"training process, peak  {state.capabilities['training_peak_mib']:8.1f} MiB")
            begun = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            print(f"SIGTERM                 exit {agent.wait(10)}, {time.monotonic() - begun:.2f} s")
        finally:
            agent.kill()
            agent.wait()
            link.close()


def measure_predict(folder: Path, file: Path, calls: int = 400) -> None:
    """The bare interpreter, `Inference`, and `Device.predict`, one example at a time."""
    key = SigningKey.generate()
    key.verify_key.write(folder / "key.pem")
    with Inference(file) as inference:
        (spec,) = inference.spec.inputs.values()
        x = np.random.default_rng(1).random((1, *spec.shape[1:]), np.float32)
        expected = inference.predict(x)[0]
    golden = folder / "golden.npz"
    np.savez(golden, x=x, **{file.name: expected})
    data = {path.name: path.read_bytes() for path in (file, golden)}
    kinds = {file.name: "float32", golden.name: "golden"}
    files = tuple(
        ModelFile(name, kinds[name], len(one), hashlib.sha256(one).hexdigest())  # type: ignore[arg-type]
        for name, one in data.items()
    )
    manifest = Manifest(name="bench", version="1.0.0", weights_digest="0" * 64, files=files)
    config = AgentConfig(
        device="d1",
        fleet="bench",
        broker="mqtt://b",
        folder="state",
        samples="samples",
        release_key="key.pem",
    )
    config.write(folder / "agent.toml")
    store = ReleaseStore.of_device(AgentConfig.load(folder / "agent.toml"))
    store.install(sign_manifest(manifest, key), {file.name: file, golden.name: golden})
    with interpreter.load(file) as bare, Inference(file) as inference, Device(folder) as device:
        name = next(iter(bare.signatures()))
        tensors = {key: np.zeros(one.shape, one.dtype) for key, one in bare.signatures()[name].inputs.items()}
        ways = {
            "bare interpreter": lambda: bare.run(name, tensors),
            "Inference.predict": lambda: inference.predict(x),
            "Device.predict": lambda: device.predict(x),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(calls):
            for way, call in ways.items():
                begun = time.perf_counter()
                call()
                times[way].append((time.perf_counter() - begun) * 1e6)
    for way, microseconds in times.items():
        print(f"{way:22}  {statistics.median(microseconds):8.1f} us")


def main() -> None:
    """Measures what the arguments allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path, help="A trainable .tflite.")
    parser.add_argument("weights", type=Path, help="Its weights as safetensors.")
    parser.add_argument("--inference", type=Path, help="A .tflite for inference.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_daemon(Path(folder), arguments.program, arguments.weights)
    if arguments.inference:
        with tempfile.TemporaryDirectory() as folder:
            measure_predict(Path(folder), arguments.inference)


if __name__ == "__main__":
    main()
