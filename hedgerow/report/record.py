"""What the demo writes down: the structure of report.json."""

from __future__ import annotations

import msgspec

SCHEMA = 1
Matrix = tuple[tuple[int, ...], ...]


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """The number that the model's field looks at, before and after the rounds.

    Attributes:
        name: As the field calls it.
        higher_is_better: Whether more is better.
        percent: Whether it is a share, 0 to 1, that people read in percent.
        examples: On how many held-out examples it was measured.
        central_float: Of the float model before the rounds.
        central_int8: Of the int8 file before the rounds; None without one.
        federated_float: After the rounds.
        federated_int8: Likewise.
    """

    name: str
    higher_is_better: bool
    percent: bool
    examples: int
    central_float: float
    central_int8: float | None
    federated_float: float
    federated_int8: float | None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """A classifier's accuracy on the held-out set, 0 to 1, before and after the rounds, float and int8.

    Those of int8 are None for a model without an int8 file.
    """

    central_float: float
    central_int8: float | None
    federated_float: float
    federated_int8: float | None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the strategy.

    Attributes:
        round: From 1.
        devices: How many updates were folded in.
        loss: Mean loss on the held-out set after the round; None where that set has no answers of the kind
            that training takes.
        accuracy: Accuracy on the held-out set after the round, 0 to 1: of examples, words or pixels; None
            where there are no classes.
        device_loss: Mean loss of all devices together on their own test examples.
        device_accuracy: Accuracy of all devices together on their own test examples, 0 to 1.
        seconds: From the first task to the last update.
        bytes_down: What the coordinator published for the round.
        bytes_up: What the devices uploaded.
    """

    round: int
    devices: int
    loss: float | None
    accuracy: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    device_loss: float | None = None
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
    """Where the refined release is, relative to the report; no int8 file if `not_int8` says why."""

    trainable: str
    int8: str | None
    manifest: str


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device's own examples, and how the models do on those of them it never trained on.

    Attributes:
        device: Its id.
        class_counts: Training examples of each class; empty for what is no classifier.
        train_examples: How many it trains on.
        test_examples: How many examples accuracies and losses are measured on.
        accuracy_before: Of the central model, 0 to 1; None for what is no classifier.
        accuracy_after: Of the refined model.
        loss_before: Of the central model, as the device itself measured it; None if it never did.
        loss_after: Of the refined model.
    """

    device: str
    class_counts: tuple[int, ...]
    train_examples: int = 0
    test_examples: int
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None


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

    central_float: Matrix
    central_int8: Matrix | None
    federated_float: Matrix
    federated_int8: Matrix | None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release the demo built.

    Attributes:
        name: As in its manifest.
        version: As in its manifest.
        stage: What the model had learned from: "central" or "federated".
        folder: Where it is, relative to the report.
        trainable_bytes: Size of the trainable float file.
        int8_bytes: Size of the int8 file; None without one.
        accuracy_float: On the held-out set, 0 to 1; None for what is no classifier.
        accuracy_int8: Likewise.
    """

    name: str
    version: str
    stage: str
    folder: str
    trainable_bytes: int
    int8_bytes: int | None
    accuracy_float: float | None = None
    accuracy_int8: float | None = None


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
        measure: What its field looks at; always there.
        accuracy: Of a classifier; None for anything else.
        not_int8: Why there is no int8 file or no compiled one; empty where both are there.
        labels: The name of each class; empty for what is no classifier.
        central_class_counts: Central training examples of each class.
        preprocessing: How raw data become the model's input.
        per_device: What each device has and gained.
        per_group: The held-out set of a classifier by person; empty where nobody is known.
        confusion: Of a classifier; None for anything else.
        stages: What the time went into.
        rounds, agents, targets, files, releases: See their classes.
    """

    model: str
    title: str
    devices: int
    seed: int
    seconds: float
    measure: Measure
    accuracy: Accuracy | None = None
    not_int8: str = ""
    rounds: tuple[Round, ...]
    agents: tuple[Agent, ...]
    targets: tuple[Target, ...]
    files: Files
    labels: tuple[str, ...]
    central_class_counts: tuple[int, ...]
    preprocessing: str
    per_device: tuple[Device, ...]
    per_group: tuple[Group, ...] = ()
    confusion: Confusion | None = None
    releases: tuple[Release, ...]
    stages: tuple[Stage, ...]
    config: dict[str, str | int | float | bool | None]
    schema: int = SCHEMA
