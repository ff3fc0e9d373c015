"""Training on the device: resumed, stopped, fitted to the memory, with a part that never leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedgerow.edge.assignment import Assignment, Bench
from hedgerow.edge.checkpoint import CheckpointFile
from hedgerow.edge.personal import PersonalWeights
from hedgerow.edge.result import Result
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.trainer import Trainer
from hedgerow.edge.training import carry_out
from hedgerow.edge.variant import choose_variant, memory_budget, working_memory
from hedgerow.errors import HedgerowError, TrainingDataError
from hedgerow.hardware import interpreter
from hedgerow.protocol import blobs, tensors
from hedgerow.protocol.messages import BlobReference, DeviceState, Progress, Task, Update

Fixture = Any
_EXPORT = """
import sys
from pathlib import Path
import keras, safetensors.numpy
from hedgerow.models import export_trainable

keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((6,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2),
    keras.layers.Dense(64, activation="relu", name="body"),
    keras.layers.Dense(3, activation="softmax", name="head")])
export_trainable(model, Path(sys.argv[1]), batch_size=8, loss="sparse_categorical_crossentropy",
                 optimizer="adam", proximal=True, variants={"train_head": "head"})
safetensors.numpy.save_file({weight.path: weight.numpy() for weight in model.weights}, sys.argv[2])
"""
_WORK = """
import sys
import msgspec
from hedgerow.edge.assignment import Assignment, Bench
from hedgerow.edge.training import carry_out

bench = msgspec.json.decode(sys.argv[1], type=Bench)
assignment = msgspec.json.decode(sys.argv[2], type=Assignment)
print("ready", flush=True)
result = carry_out(assignment, bench, lambda step, fraction: print(f"{step} {fraction:.6f}", flush=True))
sys.stdout.buffer.write(b"done " + msgspec.json.encode(result) + bytes([10]))
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that has all there is to resume: Adam, dropout, FedProx, a second variant."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-c", _EXPORT, str(folder / "program"), str(folder / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


class Desk:
    """A device's folder and the work in it, in processes that can be killed."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder, self.files = folder, files
        folder.mkdir(exist_ok=True)
        generator = np.random.default_rng(5)
        for split, count in (("train", 203), ("test", 41)):
            y = generator.integers(0, 3, count).astype(np.int32)
            x = generator.normal(size=(count, 6)).astype(np.float32) + y[:, None]
            np.savez(folder / f"{split}.npz", x=x, y=y)

    def bench(self, **fields: Any) -> Bench:
        return Bench(
            samples=str(self.folder), sampling=SamplePolicy(), results=str(self.folder / "results"),
            checkpoints=str(self.folder / "checkpoints"),
            personal_weights=str(self.folder / "personal.safetensors"), **fields,
        )  # fmt: skip

    def assignment(
        self, name: str = "t", *, phase: Any = "train", weights: str = "", **config: Any
    ) -> Assignment:
        blob = BlobReference(sha256="a" * 64, size=10)
        task = Task(
            device="d1", epoch=1, counter=1, task=name, round=1, phase=phase, program=blob, weights=blob,
            config={"epochs": 4, "learning-rate": 0.01, "proximal-mu": 0.1, "variant": "train"} | config,
        )  # fmt: skip
        files = {"program": str(self.files / "program"), "weights": weights or str(self.files / "weights")}
        return Assignment(device="d1", task=task, **files)

    def work(
        self, assignment: Assignment, *, kill_after: float | None = None, **fields: Any
    ) -> Result | None:
        """Works in a process of its own, whose steps are in `seen`; killed when so much is done, None."""
        self.seen: list[float] = []
        words = [msgspec.json.encode(one).decode() for one in (self.bench(**fields), assignment)]
        with subprocess.Popen(
            [sys.executable, "-c", _WORK, *words], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                kind, _, rest = line.partition(" ")
                if kind == "done":
                    return msgspec.json.decode(rest, type=Result)
                self.seen += [float(rest)] if kind == "train" else []
                if kill_after is not None and kind == "train" and float(rest) >= kill_after:
                    process.send_signal(signal.SIGKILL)
                    break
        return None

    def weights(self, result: Result | None) -> dict[str, np.ndarray]:
        assert result is not None
        assert result.weights is not None
        return tensors.decode(blobs.BlobStore(self.folder / "results").read(result.weights))


@pytest.fixture
def desk(tmp_path: Path, files: Path) -> Desk:
    return Desk(tmp_path, files)


def test_killed_again_and_again_it_ends_with_the_same_bits(desk: Desk, files: Path, tmp_path: Path) -> None:
    undisturbed = Desk(tmp_path / "quiet", files)
    expected = undisturbed.work(undisturbed.assignment())
    assert expected is not None
    for fraction in (0.15, 0.4, 0.5, 0.85):
        assert desk.work(desk.assignment(), kill_after=fraction, checkpoint_seconds=0.0) is None
    result = desk.work(desk.assignment())
    assert result is not None
    assert desk.seen[0] > 0.7
    assert result.weights == expected.weights
    assert result.metrics == expected.metrics
    assert not list((desk.folder / "checkpoints").iterdir())


def test_a_training_that_is_stopped_goes_on_from_that_very_step(
    desk: Desk, files: Path, tmp_path: Path
) -> None:
    class Needed(BaseException):
        pass

    def stop_at_a_third(step: str, fraction: float) -> None:
        if step == "train" and fraction > 0.33:
            raise Needed

    undisturbed = Desk(tmp_path / "quiet", files)
    expected = carry_out(undisturbed.assignment(), undisturbed.bench(), lambda *_: None)
    with pytest.raises(Needed):
        carry_out(desk.assignment(), desk.bench(checkpoint_seconds=3600.0), stop_at_a_third)
    seen: list[float] = []
    result = carry_out(desk.assignment(), desk.bench(), lambda step, fraction: seen.append(fraction))
    assert result.weights == expected.weights
    total = 4 * -(-203 // 8)
    assert len([fraction for fraction in seen if fraction > 0]) == total - round(total * 0.33 + 0.5)


def test_another_task_and_a_damaged_checkpoint_begin_anew(desk: Desk) -> None:
    desk.work(desk.assignment(), kill_after=0.5, checkpoint_seconds=0.0)
    # Killed while it wrote, it leaves a part beside the whole one from the step before.
    found = (desk.folder / "checkpoints").iterdir()
    (path,) = (path for path in found if not path.name.startswith(".writing-"))
    with Trainer(desk.files / "program") as trainer:
        assert trainer.resumable
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert CheckpointFile(path.parent, desk.assignment(), seconds=1.0).read() is None
    path.write_bytes(whole)
    assert CheckpointFile(path.parent, desk.assignment("other"), seconds=1.0).read() is None
    assert not path.exists()


def test_what_the_devices_own_tests_say_before_and_after_goes_with_the_update(desk: Desk) -> None:
    metrics = carry_out(desk.assignment(), desk.bench(), lambda *_: None).metrics
    assert metrics["test_accuracy_after"] > metrics["test_accuracy_before"]
    assert metrics["test_loss_after"] < metrics["test_loss_before"]
    assert set(metrics) == {
        "train_loss", "test_accuracy_before", "test_accuracy_after", "test_loss_before", "test_loss_after",
    }  # fmt: skip
    tests = np.load(desk.folder / "test.npz")
    with Trainer(desk.files / "program") as trainer:
        trainer.set_weights(tensors.decode((desk.files / "weights").read_bytes()))
        right = trainer.predict(tests["x"]).argmax(1) == tests["y"]
    assert metrics["test_accuracy_before"] == pytest.approx(float(right.mean()), abs=1e-6)
    (desk.folder / "test.npz").unlink()
    assert set(carry_out(desk.assignment(), desk.bench(), lambda *_: None).metrics) == {"train_loss"}


def test_a_personal_head_is_trained_kept_and_never_sent(desk: Desk) -> None:
    sent = tensors.decode((desk.files / "weights").read_bytes())
    head = [name for name in sent if "head" in name]
    assert len(head) == 2
    bench = desk.bench(personal=("*head*",))
    first = carry_out(desk.assignment("t1", seed=1), bench, lambda *_: None)
    update = desk.weights(first)
    for name in sent:
        assert np.array_equal(update[name], sent[name]) == (name in head)
    kept = PersonalWeights(Path(bench.personal_weights), ("*head*",))
    mine = kept.merged(dict(sent), "t2")
    assert all(not np.array_equal(mine[name], sent[name]) for name in head)
    assert all(np.array_equal(mine[name], sent[name]) for name in sent if name not in head)
    # The next round's model comes with another head; the device's own takes its place.
    changed = {name: value + 1.0 if name in head else value for name, value in update.items()}
    (desk.folder / "next").write_bytes(tensors.encode(changed))
    weights = str(desk.folder / "next")
    own = carry_out(desk.assignment("e2", phase="evaluate", weights=weights), bench, lambda *_: None)
    assert own.metrics["accuracy"] == pytest.approx(first.metrics["test_accuracy_after"])
    second = desk.weights(carry_out(desk.assignment("t2", weights=weights), bench, lambda *_: None))
    assert all(np.array_equal(second[name], changed[name]) for name in head)


def test_a_task_done_again_begins_with_the_head_that_it_began_with(desk: Desk) -> None:
    bench = desk.bench(personal=("*head*",))
    first = carry_out(desk.assignment("t1"), bench, lambda *_: None)
    again = carry_out(desk.assignment("t1"), bench, lambda *_: None)
    assert (again.weights, again.metrics) == (first.weights, first.metrics)


def test_a_pattern_that_matches_nothing_sends_nothing(desk: Desk) -> None:
    with pytest.raises(TrainingDataError, match=r"\*haed\*"):
        carry_out(desk.assignment(), desk.bench(personal=("*haed*",)), lambda *_: None)


def test_the_variant_is_the_largest_that_fits() -> None:
    needs, trained = {"train": 900, "train_half": 500, "train_head": 100}, {
        "train": 1000, "train_half": 400, "train_head": 10,
    }  # fmt: skip
    for budget, expected in ((10_000, "train"), (899, "train_half"), (499, "train_head"), (0, "train_head")):
        assert choose_variant(needs, trained, budget) == expected


def test_a_device_with_little_memory_trains_the_head_alone(desk: Desk, tmp_path: Path) -> None:
    needs = working_memory(desk.files / "program", ("train", "train_head"))
    assert 0 < needs["train_head"] < needs["train"]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 64 kB\n")
    assert memory_budget(0, root=tmp_path) == 32 << 10
    assert memory_budget(1) == 0
    sent = tensors.decode((desk.files / "weights").read_bytes())
    # One MiB is less than this process has already: only the smallest variant is left.
    result = carry_out(desk.assignment(variant=""), desk.bench(memory_limit_mib=1), lambda *_: None)
    update = desk.weights(result)
    changed = {name for name in sent if not np.array_equal(update[name], sent[name])}
    assert changed == {name for name in sent if "head" in name}
    roomy = desk.weights(carry_out(desk.assignment("t2", variant=""), desk.bench(), lambda *_: None))
    assert all(not np.array_equal(roomy[name], sent[name]) for name in sent)


@pytest.mark.parametrize("variant", ["train_tail", 7])
def test_a_variant_that_is_not_there_is_refused(variant: Any, desk: Desk) -> None:
    with pytest.raises(HedgerowError, match="variant"):
        carry_out(desk.assignment(variant=variant), desk.bench(), lambda *_: None)


@pytest.mark.slow
def test_the_agent_goes_on_where_it_was_killed_and_stands_back_while_it_trains(
    coordinator: Fixture, model: Fixture, make_agent: Fixture
) -> None:
    offered = {
        "program": coordinator.offer(model.program),
        "weights": coordinator.offer(model.weights, codec="f32"),
    }
    agent = make_agent(checkpoint_seconds=0.2, niceness=13)
    coordinator.wait(DeviceState, online=True)

    def ask() -> None:
        config = {"epochs": 1000, "learning-rate": 0.01}
        coordinator.tell(Task, "d1", task="t", round=1, phase="train", config=config, **offered)

    ask()
    coordinator.wait(Progress, step="train")
    children = subprocess.run(
        ["pgrep", "-P", str(agent.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [os.getpriority(os.PRIO_PROCESS, int(child)) for child in children] == [13]
    until = time.monotonic() + 20.0
    while not list((agent.path / "state" / "checkpoints").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.02)
    agent.kill()
    agent.start()
    coordinator.wait(DeviceState, online=True, tasks=())
    ask()
    coordinator.wait(Update, task="t", seconds=60.0)
    assert "t goes on at step" in agent.log


def test_no_scalar_is_resized(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT for 64-bit ARM ends the process there."""
    resizing, sizes = interpreter._Resizing, []

    class Told:
        def __init__(self, engine: Any) -> None:
            self.engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        def ResizeInputTensor(self, index: int, shape: np.ndarray, *others: Any) -> None:  # noqa: N802
            sizes.append(len(shape))
            self.engine.ResizeInputTensor(index, shape, *others)

    monkeypatch.setattr(interpreter, "_Resizing", lambda engine: resizing(Told(engine)))
    with Trainer(files / "program") as trainer:
        assert trainer.fit(np.ones((8, 6), "f4"), np.zeros(8, "i4"), learning_rate=0.1).steps == 1
    assert sizes
    assert 0 not in sizes
