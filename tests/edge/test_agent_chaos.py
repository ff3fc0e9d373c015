"""A device that is killed again and again while it samples, downloads, swaps, trains and uploads.

pytest -m slow tests/edge/test_agent_chaos.py -k 500         or, with another number, HEDGEROW_KILLS=2000
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.edge import Device
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.sample_store import SampleStore
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.messages import Accepted, Chunk, DeviceState, Grant, Settled, Task, Update
from hedgerow.protocol.signatures import SigningKey, sign_manifest

Fixture = Any
KEY = SigningKey.generate()
SAMPLING = SamplePolicy(limit=1_000_000, limit_mib=1024)
COUNTS = [20, int(os.environ.get("HEDGEROW_KILLS", "500"))]
_SAMPLER = """
import sys, time
import numpy as np
from hedgerow.edge import Device

with Device(sys.argv[1]) as device:
    for number in range(int(sys.argv[2]), 1 << 24):
        x = np.random.default_rng(number).normal(size=(8, 8, 1)).astype(np.float32)
        x[0, 0, 0] = number
        device.add_sample(x, number % 3)
        print(number, flush=True)
        time.sleep(0.1)
"""
_PREDICTOR = """
import sys, time
import numpy as np
from hedgerow.edge import Device
from hedgerow.errors import NoReleaseError

known = np.load(sys.argv[2])
with Device(sys.argv[1]) as device:
    while True:
        try:
            output = device.predict(known["x"])
        except NoReleaseError:
            print("none", flush=True)
        else:
            away = {name: np.abs(output - known[name + "_output"]).max() for name in ("first", "second")}
            print(min(away, key=away.get) if min(away.values()) < 1e-5 else "wrong", flush=True)
        time.sleep(0.05)
"""


class PatientCoordinator:
    """Asks for one task after another; repeats what gets no answer, and counts what it stores."""

    def __init__(self, coordinator: Any, offered: dict[str, Any]) -> None:
        self._coordinator = coordinator
        self._offered = offered
        self._chunks: dict[str, dict[int, bytes]] = {}
        self._announced: dict[str, str] = {}
        self.stored: list[str] = []
        self.enough = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.failure = error
            raise

    def _run(self) -> None:
        number = 0
        while not self.enough.is_set():
            self._finish(f"task-{number}", number + 1)
            number += 1

    def _finish(self, name: str, round_: int) -> None:
        until = time.monotonic() + 900.0
        while name not in self.stored:
            assert time.monotonic() < until, f"{name} is not answered"
            self._ask(name, round_)
            for _ in range(30):
                if not self._hear(name):
                    break

    def _ask(self, name: str, round_: int) -> None:
        fields = {"task": name, "round": round_, "phase": "train"} | self._offered
        self._coordinator.tell(Task, "d1", config={"epochs": 2, "learning-rate": 0.01}, **fields)

    def _hear(self, name: str) -> bool:
        """Deals with one message; False when the task should be asked for again."""
        try:
            message = self._coordinator.wait((Update, Chunk, DeviceState, Accepted), seconds=3.0)
        except AssertionError:
            return False
        match message:
            case DeviceState(online=True, tasks=tasks):
                return name in tasks
            case Update(task=task):
                self._check_same(message)
                self._grant(message)
                if task in self.stored:
                    self._coordinator.tell(Settled, "d1", task=task, accepted=True)
            case Chunk(header=header, data=data) if header.task == name:
                parts = self._chunks.setdefault(name, {})
                parts[header.chunk] = data
                if len(parts) == self._wanted and name not in self.stored:
                    whole = b"".join(parts[number] for number in sorted(parts))
                    assert hashlib.sha256(whole).hexdigest() == self._announced[name]
                    self.stored.append(name)
                    self._coordinator.tell(Settled, "d1", task=name, accepted=True)
                    return False
        return True

    def _check_same(self, update: Update) -> None:
        """What was said to be finished stays what it is, however often the device is killed."""
        assert update.weights is not None
        assert self._announced.setdefault(update.task, update.weights.sha256) == update.weights.sha256

    def _grant(self, update: Update) -> None:
        if update.weights is None or update.task in self.stored:
            return
        self._wanted = update.weights.chunks
        missing = [n for n in range(self._wanted) if n not in self._chunks.get(update.task, {})]
        fields = {"task": update.task, "sha256": update.weights.sha256, "chunks": tuple(missing)}
        self._coordinator.tell(Grant, "d1", **fields)


class Program:
    """A process of the user's own on the device, killed and started again; what it printed is kept."""

    def __init__(self, script: str, *words: str) -> None:
        self._command = [sys.executable, "-c", script, *words]
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [*self._command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self._errors
        self._process.kill()
        self._process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            for line in process.stdout:
                if line.endswith("\n"):
                    self.said.append(line.strip())
            self._errors = process.stderr.read()


class Publisher:
    """A new release now and then, with the one model or the other."""

    def __init__(self, coordinator: Any, model: Any, folder: Path) -> None:
        self._coordinator = coordinator
        self._files = {}
        self.published = 0
        for which in ("first", "second"):
            vectors = folder / f"{which}.npz"
            np.savez(vectors, x=model.inference["x"], **{"m.tflite": model.inference[f"{which}_output"]})
            data = {"m.tflite": model.inference[which].tobytes(), "golden.npz": vectors.read_bytes()}
            for one in data.values():
                coordinator.offer(one)
            self._files[which] = tuple(
                ModelFile(name, kind, len(data[name]), hashlib.sha256(data[name]).hexdigest())  # type: ignore[arg-type]
                for name, kind in (("m.tflite", "float32"), ("golden.npz", "golden"))
            )

    def publish(self) -> None:
        self.published += 1
        files = self._files["second" if self.published % 2 == 0 else "first"]
        version = f"1.0.{self.published}"
        manifest = Manifest(name="shapes", version=version, weights_digest="0" * 64, files=files)
        self._coordinator.release("stable", sign_manifest(manifest, KEY))


@pytest.mark.slow
@pytest.mark.parametrize("kills", COUNTS)
def test_killed_at_any_moment_nothing_is_lost_wrong_or_delivered_twice(
    kills: int, coordinator: Fixture, model: Fixture, make_agent: Fixture, tmp_path: Path
) -> None:
    generator = random.Random(2)
    KEY.verify_key.write(tmp_path / "fleet.pem")
    np.savez(tmp_path / "known.npz", **model.inference)
    agent = make_agent(
        channel="stable", release_key=str(tmp_path / "fleet.pem"), sampling=SAMPLING, checkpoint_seconds=0.5
    )
    publisher = Publisher(coordinator, model, tmp_path)
    publisher.publish()
    sampler = Program(_SAMPLER, str(agent.path))
    predictor = Program(_PREDICTOR, str(agent.path), str(tmp_path / "known.npz"))
    offered = {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32"),
    }
    patient = PatientCoordinator(coordinator, offered)
    thread = threading.Thread(target=patient.run)
    sampler.start("0")
    predictor.start()
    thread.start()
    done = 0
    try:
        while done < kills or len(patient.stored) < 3:
            # From before it is connected to after several tasks; a busy machine gets more time.
            thread.join(generator.uniform(0.05, 2.5) * (4.0 if done % 10 == 0 else 1.0))
            assert patient.failure is None
            victim = generator.choice(("agent", "agent", "agent", "sampler", "predictor"))
            if victim == "agent":
                agent.kill()
                agent.start()
            elif victim == "sampler" and sampler.said:
                sampler.kill()
                sampler.start(str(int(sampler.said[-1]) + 2))
            elif victim == "predictor" and predictor.said:
                predictor.kill()
                predictor.start()
            done += 1
            if done % 4 == 0:
                publisher.publish()
    finally:
        patient.enough.set()
        thread.join(910.0)
        sampler.kill()
        predictor.kill()
    assert patient.failure is None
    assert patient.stored == [f"task-{number}" for number in range(len(patient.stored))]
    coordinator.wait(DeviceState, online=True, tasks=(), seconds=60.0)
    until = time.monotonic() + 60.0
    with Device(agent.path) as device:
        while device.release != f"shapes-1.0.{publisher.published}":
            assert time.monotonic() < until
            time.sleep(0.2)
    agent.stop()
    _check_answers(predictor.said)
    acknowledged = set(map(int, sampler.said))
    found = _kept(agent.path / "samples")
    assert acknowledged <= found
    sys.stderr.write(
        f"{done} kills: {len(patient.stored)} updates, {publisher.published} releases, "
        f"{len(acknowledged)} samples, {len(predictor.said)} answers"
    )


def _check_answers(said: list[str]) -> None:
    """Until the first release is installed there is none to answer from, and never again after that."""
    served = [word for index, word in enumerate(said) if word != "none" or "first" in said[:index]]
    assert set(served) <= {"first", "second"}, [word for word in served if word not in ("first", "second")]
    assert {"first", "second"} <= set(served)


def _kept(samples: Path) -> set[int]:
    found: set[int] = set()
    with SampleStore(samples, policy=SAMPLING) as store:
        for split in ("train", "test"):
            if store.count(split):
                found |= {int(number) for number in store.load(split).x[:, 0, 0, 0]}
    return found
