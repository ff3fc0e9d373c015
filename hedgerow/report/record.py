"""What the demo writes down: the structure of report.json."""

from __future__ import annotations

import msgspec

SCHEMA = 1


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy on the held-out set, 0 to 1, before and after the rounds, for the float and the int8 model."""

    central_float: float
    central_int8: float
    federated_float: float
    federated_int8: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the strategy.

    Attributes:
        round: From 1.
        devices: How many updates were folded in.
        loss: Mean loss on the held-out set after the round.
        accuracy: Accuracy on the held-out set after the round, 0 to 1.
        device_accuracy: Accuracy of all devices together on their own test examples, 0 to 1.
        seconds: From the first task to the last update.
        bytes_down: What the coordinator published for the round.
        bytes_up: What the devices uploaded.
    """

    round: int
    devices: int
    loss: float
    accuracy: float
    seconds: float
    bytes_down: int
    bytes_up: int
    device_accuracy: float | None = None


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent process, measured by itself at the end.

    Attributes:
        device: Its device's id.
        pid: Its process id.
        rss_mib: Its resident memory in MiB.
        runtime: The TFLite runtime it trained on.
        modules_forbidden: Modules it has imported although no agent may; empty when all is well.
    """

    device: str
    pid: int
    rss_mib: float
    runtime: str
    modules_forbidden: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The int8 model compiled for an accelerator.

    Attributes:
        target: Its name.
        npu_percent: Share of the operators that run on the accelerator, 0 to 100.
        cycles: Estimated cycles of one inference.
        sram_kib: Peak SRAM in KiB.
        inference_ms: Estimated milliseconds of one inference.
    """

    target: str
    npu_percent: float
    cycles: int
    sram_kib: float
    inference_ms: float | None = None


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Where the refined release is, relative to the report."""

    trainable: str
    int8: str
    manifest: str


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device's own examples, and the accuracy on those of them it never trained on.

    Attributes:
        device: Its id.
        class_counts: Training examples of each class.
        test_examples: How many examples the accuracies are measured on.
        accuracy_before: Of the central model, 0 to 1.
        accuracy_after: Of the refined model.
    """

    device: str
    class_counts: tuple[int, ...]
    test_examples: int
    accuracy_before: float
    accuracy_after: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the held-out set that comes from one person.

    Attributes:
        group: Whom, as the data set calls them.
        central: Whether the central model was trained on other examples of this person.
        examples: How many held-out examples.
        accuracy_before: Of the central model, 0 to 1.
        accuracy_after: Of the refined model.
    """

    group: str
    central: bool
    examples: int
    accuracy_before: float
    accuracy_after: float


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """Confusion matrices on the held-out set: row i, column j counts class i taken for class j."""

    central_float: tuple[tuple[int, ...], ...]
    central_int8: tuple[tuple[int, ...], ...]
    federated_float: tuple[tuple[int, ...], ...]
    federated_int8: tuple[tuple[int, ...], ...]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release the demo built.

    Attributes:
        name: As in its manifest.
        version: As in its manifest.
        stage: What the model had learned from: "central" or "federated".
        folder: Where it is, relative to the report.
        trainable_bytes: Size of the trainable float file.
        int8_bytes: Size of the int8 file.
        accuracy_float: On the held-out set, 0 to 1.
        accuracy_int8: On the held-out set, 0 to 1.
    """

    name: str
    version: str
    stage: str
    folder: str
    trainable_bytes: int
    int8_bytes: int
    accuracy_float: float
    accuracy_int8: float


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """How long a stage of the demo took."""

    stage: str
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the demo.

    Attributes:
        schema: Version of this structure.
        title: The model in words.
        model: Its name in the zoo.
        devices: How many took part.
        seed: Of every choice.
        seconds: How long the whole run took.
        config: Every option of the run, by name.
        labels: The name of each class.
        central_class_counts: Central training examples of each class.
        preprocessing: How raw data become the model's input.
        per_device: What each device has and gained.
        per_group: The held-out set by person; empty where nobody is known.
        stages: What the time went into.
        accuracy, rounds, agents, targets, files, releases, confusion: See their classes.
    """

    model: str
    title: str
    devices: int
    seed: int
    seconds: float
    accuracy: Accuracy
    rounds: tuple[Round, ...]
    agents: tuple[Agent, ...]
    targets: tuple[Target, ...]
    files: Files
    labels: tuple[str, ...]
    central_class_counts: tuple[int, ...]
    preprocessing: str
    per_device: tuple[Device, ...]
    per_group: tuple[Group, ...] = ()
    confusion: Confusion
    releases: tuple[Release, ...]
    stages: tuple[Stage, ...]
    config: dict[str, str | int | float | bool | None]
    schema: int = SCHEMA
