"""The report: what programs read and what people see."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from hedgerow import report as reports

MATRIX = ((8, 2), (1, 9))
VOID = {"meta", "br", "hr", "img", "link", "input"}


def sample(**changes: object) -> reports.Report:
    """A made-up run of two devices and two classes."""
    record = reports.Report(
        model="test-model",
        title="A made-up model",
        devices=2,
        seed=7,
        seconds=130.0,
        measure=reports.Measure(
            name="accuracy",
            higher_is_better=True,
            percent=True,
            examples=1000,
            central_float=0.85,
            central_int8=0.84,
            federated_float=0.9,
            federated_int8=0.89,
        ),
        accuracy=reports.Accuracy(
            central_float=0.85, central_int8=0.84, federated_float=0.9, federated_int8=0.89
        ),
        rounds=tuple(
            reports.Round(
                round=number,
                devices=2,
                loss=0.5,
                accuracy=0.85 + number / 100,
                seconds=1.5,
                bytes_down=2048,
                bytes_up=4096,
            )
            for number in (1, 2)
        ),
        agents=(reports.Agent(device="device-01", pid=42, rss_mib=55.5, runtime="tflite"),),
        targets=(reports.Target(target="ethos-u55-128", npu_percent=100.0, cycles=12345, sram_kib=20.5),),
        files=reports.Files(
            trainable="releases/a/t.tflite", int8="releases/a/i.tflite", manifest="releases/a/manifest.json"
        ),
        labels=("cat", "dog"),
        central_class_counts=(5, 6),
        preprocessing="x = raw / 255",
        per_device=(
            reports.Device(
                device="device-01",
                class_counts=(30, 0),
                test_examples=8,
                accuracy_before=0.7,
                accuracy_after=0.8,
            ),
            reports.Device(
                device="device-02",
                class_counts=(3, 20),
                test_examples=6,
                accuracy_before=0.9,
                accuracy_after=0.8,
            ),
        ),
        confusion=reports.Confusion(
            central_float=MATRIX, central_int8=MATRIX, federated_float=MATRIX, federated_int8=MATRIX
        ),
        releases=(
            reports.Release(
                name="test-model",
                version="1",
                stage="central",
                folder="releases/a",
                trainable_bytes=300_000,
                int8_bytes=30_000,
                accuracy_float=0.85,
                accuracy_int8=0.84,
            ),
        ),
        stages=(reports.Stage(stage="central training", seconds=3.0),),
        config={"strategy": "FedAvg", "alpha": 0.5, "broker": None},
    )
    return msgspec.structs.replace(record, **changes)


def language_model(**changes: object) -> reports.Report:
    """A made-up run of what is no classifier: perplexity, of which less is better, and no int8 file."""
    record = sample()
    return msgspec.structs.replace(
        record,
        **{
            "measure": reports.Measure(
                name="perplexity",
                higher_is_better=False,
                percent=False,
                examples=200,
                central_float=23.5,
                central_int8=None,
                federated_float=21.25,
                federated_int8=None,
            ),
            "accuracy": None,
            "confusion": None,
            "labels": (),
            "central_class_counts": (),
            "not_int8": "a kernel is missing",
            "targets": (),
            "files": reports.Files(trainable="a/t.tflite", int8=None, manifest="a/manifest.json"),
            "rounds": tuple(
                msgspec.structs.replace(one, loss=None, accuracy=None, device_loss=3.125)
                for one in record.rounds
            ),
            "per_device": tuple(
                reports.Device(
                    device=f"topic-{number}",
                    class_counts=(),
                    train_examples=77,
                    test_examples=8,
                    loss_before=3.5,
                    loss_after=None if number == 2 else 3.0,
                )
                for number in (1, 2)
            ),
            "releases": tuple(
                msgspec.structs.replace(one, int8_bytes=None, accuracy_float=None, accuracy_int8=None)
                for one in record.releases
            ),
            **changes,
        },
    )


@pytest.fixture(scope="module")
def page() -> str:
    return reports.html(sample())


class Elements(HTMLParser):
    """Collects what a page is made of, and fails on elements closed in the wrong order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "action"}:
                self.addresses.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_json_has_what_others_read(tmp_path: Path) -> None:
    reports.write(sample(), tmp_path)
    record = json.loads((tmp_path / "report.json").read_bytes())
    assert {"model", "devices", "seed", "seconds", "accuracy", "rounds", "agents", "targets", "files"} <= set(
        record
    )
    assert set(record["accuracy"]) == {"central_float", "central_int8", "federated_float", "federated_int8"}
    assert {"round", "devices", "loss", "accuracy", "seconds", "bytes_down", "bytes_up"} <= set(
        record["rounds"][0]
    )
    assert {"device", "pid", "rss_mib", "runtime", "modules_forbidden"} <= set(record["agents"][0])
    assert record["agents"][0]["modules_forbidden"] == []
    assert {"target", "npu_percent", "cycles", "sram_kib"} <= set(record["targets"][0])
    assert set(record["files"]) == {"trainable", "int8", "manifest"}


def test_json_is_read_back_as_the_same_record(tmp_path: Path) -> None:
    reports.write(sample(), tmp_path)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=reports.Report) == sample()


def test_writing_leaves_two_files_and_no_draft(tmp_path: Path) -> None:
    reports.write(sample(), tmp_path)
    reports.write(sample(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_page_stands_alone(page: str) -> None:
    elements = Elements(page)
    assert {"script", "link", "img", "iframe"}.isdisjoint(elements.names)
    assert all(address.startswith("#") for address in elements.addresses)
    assert len(elements.ids) == len(set(elements.ids)), "two elements of one page have the same id"
    assert {address[1:] for address in elements.addresses} <= set(elements.ids)
    assert elements.names.count("svg") == 7


def test_page_takes_its_colours_from_the_reader(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert not re.search(r"#0[123]0[123]0[123]", page), "a stand-in colour was left"


def test_page_shows_the_numbers(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    for shown in (
        "90.0 %",
        "+5.0 points",
        "12,345",
        "55.5 MiB",
        "293.0 KiB",
        "2 min 10 s",
        "x = raw / 255",
        "none",
    ):
        assert shown in text, shown


def test_page_marks_a_loss_as_worse() -> None:
    worse = msgspec.structs.replace(sample().measure, central_float=0.9, federated_float=0.8)
    assert '<span class="worse">-10.0 points' in reports.html(sample(measure=worse))


def test_what_is_no_classifier_is_shown_by_its_own_measure() -> None:
    page = reports.html(language_model())
    elements = Elements(page)
    text = " ".join(elements.text.split())
    for words in (
        "Measured by perplexity on 200 held-out examples: lower is better.",
        "Held-out perplexity, float 21.250 -2.250, from 23.500",
        "Perplexity, float",
        "No int8 file, and so nothing for an NPU: a kernel is missing.",
        "\N{EN DASH} 3.125",
        "Loss per device",
    ):
        assert words in text, words
    assert '<span class="better">-2.250' in page
    assert not re.search("accuracy|confusion", text, re.IGNORECASE)
    assert elements.names.count("svg") == 3
    assert "77" in text, "examples per device"


def test_a_larger_error_is_worse() -> None:
    worse = msgspec.structs.replace(language_model().measure, federated_float=24.0)
    assert '<span class="worse">+0.500' in reports.html(language_model(measure=worse))


def test_a_classifier_without_int8_has_its_float_confusion() -> None:
    record = sample()
    assert record.accuracy is not None
    assert record.confusion is not None
    missing = {"central_int8": None, "federated_int8": None}
    page = reports.html(
        sample(
            measure=msgspec.structs.replace(record.measure, **missing),
            accuracy=msgspec.structs.replace(record.accuracy, **missing),
            confusion=msgspec.structs.replace(record.confusion, **missing),
            files=msgspec.structs.replace(record.files, int8=None),
            not_int8="a kernel is missing",
            targets=(),
        )
    )
    elements = Elements(page)
    assert elements.names.count("svg") == 5
    assert "diamonds" not in elements.text
    assert "Held-out accuracy, int8" not in elements.text


def test_page_escapes_what_it_shows() -> None:
    hostile = "<script>alert('x')</script> & co"
    page = reports.html(
        sample(title=hostile, labels=(hostile, "b"), preprocessing=hostile, config={hostile: hostile})
    )
    assert "<script" not in page
    assert hostile in Elements(page).text


def test_people_are_shown_where_known() -> None:
    groups = (
        reports.Group(group="3", central=True, examples=9, accuracy_before=0.9, accuracy_after=0.88),
        reports.Group(group="4", central=False, examples=10, accuracy_before=0.5, accuracy_after=0.6),
        reports.Group(group="5", central=False, examples=30, accuracy_before=0.7, accuracy_after=0.8),
    )
    page = Elements(reports.html(sample(per_group=groups)))
    assert "3 (central)" in page.text
    text = " ".join(page.text.split())
    assert "75.0 % +10.0 points, from 65.0 %" in text, "people are weighted by their examples"
    assert page.names.count("svg") == 8


@pytest.mark.parametrize("devices", [1, 60])
def test_page_takes_any_number_of_devices(devices: int) -> None:
    one = sample().per_device[0]
    many = tuple(msgspec.structs.replace(one, device=f"device-{number:02d}") for number in range(devices))
    assert Elements(reports.html(sample(per_device=many))).text.count("device-00") == 2


@pytest.mark.parametrize("classes", [15, 16, 40])
def test_tables_of_many_classes_take_the_whole_width(classes: int) -> None:
    labels = tuple(f"class {number}" for number in range(classes))
    matrix = tuple(tuple(int(row == column) for column in range(classes)) for row in range(classes))
    confusion = reports.Confusion(
        central_float=matrix, central_int8=matrix, federated_float=matrix, federated_int8=matrix
    )
    devices = tuple(msgspec.structs.replace(one, class_counts=(1,) * classes) for one in sample().per_device)
    record = sample(
        labels=labels, central_class_counts=(2,) * classes, per_device=devices, confusion=confusion
    )
    page = reports.html(record)
    assert page.count('<figure class="wide">') == (5 if classes > 15 else 0)
    assert page.count("rotate(-90)") >= (5 * classes if classes > 15 else 0)


def test_same_record_gives_the_same_page(page: str) -> None:
    assert reports.html(sample()) == page


def test_record_and_page_without_rounds_or_agents() -> None:
    assert Elements(reports.html(sample(rounds=(), agents=(), targets=())))
