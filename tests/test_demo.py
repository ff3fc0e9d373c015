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

import numpy as np
import psutil
import pytest

from hedgerow.coordinator import events
from hedgerow.coordinator.records import RoundRecord
from hedgerow.demo_fleet import write_samples
from hedgerow.demo_rounds import Refined
from hedgerow.edge.sample_policy import SamplePolicy
from hedgerow.edge.sample_store import SampleStore
from hedgerow.edge.samples import SampleFolder, Samples
from hedgerow.models import losses, optimizers, zoo
from hedgerow.models.trainable.step import TrainableModule
from hedgerow.protocol.link import Broker, Connected, LinkEvent, MqttLink, Received
from hedgerow.protocol.messages import BlobReference

COMMAND = [sys.executable, "-m", "hedgerow", "demo"]
STAGES = ("central", "federated")
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


def test_the_devices_own_losses_are_those_before_the_first_round_and_after_the_last() -> None:
    def counted(device: str, number: int, phase: str, **metrics: float) -> events.UpdateCounted:
        return events.UpdateCounted(device=device, round=number, phase=phase, num_examples=9, metrics=metrics)

    def ended(number: int, loss: float | None) -> events.RoundEnded:
        return events.RoundEnded(
            record=RoundRecord(
                round=number,
                devices=2,
                device_loss=1.5,
                device_accuracy=None,
                held_out_loss=loss,
                held_out_accuracy=None,
                seconds=1.0,
                bytes_down=1,
                bytes_up=1,
                weights=BlobReference(sha256="0" * 64, size=1),
            )
        )

    refined = Refined()
    for event in (
        events.PhaseOpened(round=1, phase="train", devices=("a", "b")),
        counted("a", 1, "train", train_loss=9.0, test_loss_before=4.0, test_loss_after=3.0),
        counted("b", 1, "train", train_loss=9.0),
        events.PhaseOpened(round=1, phase="evaluate", devices=("a", "b")),
        counted("a", 1, "evaluate", loss=3.5),
        counted("b", 1, "evaluate", loss=3.0),
        ended(1, 2.5),
        counted("a", 2, "train", train_loss=9.0, test_loss_before=3.5, test_loss_after=2.0),
        events.PhaseOpened(round=2, phase="evaluate", devices=("a", "b")),
        counted("a", 2, "evaluate", loss=2.25),
        ended(2, None),
        events.Finished(weights="w.safetensors", devices=()),
    ):
        refined = refined.then(event)
    assert refined.losses_before == {"a": 4.0}
    assert refined.losses_after == {"a": 2.25}, "one that fell out of the last round has none"
    assert [record.round for record in refined.rounds] == [1, 2]
    assert refined.weights == Path("w.safetensors")
    assert refined.in_words(classifies=False) == "2 rounds, loss on devices 1.500"


@pytest.mark.parametrize("name", zoo.names())
def test_a_systems_samples_reach_the_trainer_as_it_wants_them(name: str, tmp_path: Path) -> None:
    entry = zoo.get(name)
    data = entry.federate(devices=2).thin(6).devices[0].train
    module = TrainableModule(
        entry.build(), [losses.get(entry.loss)], optimizers.get("sgd"), batch_size=entry.federated.batch_size
    )
    wanted = {
        key: (tuple(spec.shape[1:]), spec.dtype.as_numpy_dtype)
        for key, spec in {**module.inputs, **module.targets}.items()
    }

    def check(samples: Samples) -> None:
        found = {key: (array.shape[1:], array.dtype.type) for key, array in samples.arrays.items()}
        assert found == wanted
        assert len(samples) == len(data)
        for loaded, given in zip(samples.arrays.values(), (data.x, *data.more, data.y), strict=True):
            np.testing.assert_array_equal(loaded, given)

    write_samples(tmp_path / "train.npz", data)
    files = SampleFolder(tmp_path).load("train")
    check(files)
    with SampleStore(tmp_path / "store", policy=SamplePolicy(test_fraction=0.0)) as store:
        store.add_many(files.x, files.y)
        check(store.load("train"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "measure", "held_out"),
    [("number-translator", "exact match", True), ("motion-anomaly", "ROC AUC", False)],
    ids=["two inputs of words", "no classes, and a held-out set of flags"],
)
def test_what_is_no_classifier_goes_the_same_way(
    mosquitto: str, tmp_path: Path, name: str, measure: str, held_out: bool
) -> None:
    out = tmp_path / "out"
    small = ["--model", name, "--devices", "2", "--rounds", "1", "--epochs", "1"]
    done = subprocess.run(
        [*COMMAND, *small, "--broker", mosquitto, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["measure"]["name"], report["measure"]["examples"]) == (measure, 200)
    values = [report["measure"][f"{stage}_{form}"] for stage in STAGES for form in ("float", "int8")]
    assert all(0 < value < 1 for value in values)
    assert abs(values[0] - values[1]) < 0.1, "int8 does what float does"
    assert (report["accuracy"], report["confusion"], report["not_int8"]) == (None, None, "")
    (record,) = report["rounds"]
    assert record["devices"] == 2
    assert record["device_loss"] > 0
    assert (record["loss"] is not None) == held_out
    for device in report["per_device"]:
        assert device["loss_before"] != device["loss_after"]
        assert device["train_examples"] > device["test_examples"] > 0
    assert all(agent["modules_forbidden"] == [] for agent in report["agents"])
    assert [target["target"] for target in report["targets"]] == ["ethos-u55-128"]
    for file in report["files"].values():
        assert (out / file).is_file()
    manifest = json.loads((out / report["files"]["manifest"]).read_text())
    metrics = {file["kind"]: file.get("metrics") for file in manifest["files"]}
    assert metrics["int8"] == {measure.lower().replace(" ", "_"): values[3]}
    page = (out / "report.html").read_text()
    assert f"Held-out {measure}, int8" in page
    assert not processes_that_name(str(out))
    assert not retained_on(mosquitto)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_an_int8_kernel_it_goes_on_in_float_and_says_why(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["--model", "gesture-video", "--devices", "2", "--rounds", "1", "--epochs", "1"]
    done = subprocess.run(
        [*COMMAND, *small, "--out", str(out)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no int8 file: TFLite has no int8 kernel for CONV_3D" in " ".join(done.stdout.split())
    report = json.loads((out / "report.json").read_text())
    assert report["not_int8"] == zoo.get("gesture-video").not_int8
    assert report["files"]["int8"] is None
    assert report["targets"] == []
    assert report["accuracy"]["central_int8"] is None
    assert report["accuracy"]["federated_float"] > 1 / 40
    assert len(report["confusion"]["federated_float"]) == 40
    assert report["confusion"]["federated_int8"] is None
    assert (out / "releases" / "gesture-video-1.1.0" / "float32.tflite").is_file()


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
