"""What a training process is told, and what it answers: lines of JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..hardware.runtime import RuntimeName
from ..protocol.messages import Task
from .result import Result
from .sample_policy import SamplePolicy

# What a device never needs; the agent reports if it was loaded all the same.
FORBIDDEN_MODULES = ("tensorflow", "keras", "flwr", "grpc", "torch")


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What the work is done with; the first line.

    Args:
        samples: The samples folder.
        sampling: The sample store's policy.
        results: Folder of the blob store for new weights.
        runtime: The TFLite runtime.
        num_threads: Its threads.
        niceness: How far the process stands back behind others, 0 to 19.
        memory_limit_mib: What it may use; 0 is all there is.
        log_level: Of its log on standard error.
        checkpoints: Folder for what a killed training goes on from; empty: none.
        checkpoint_seconds: So often it writes that.
        personal: Patterns of weights that stay on the device.
        personal_weights: The file that has them.
    """

    samples: str
    sampling: SamplePolicy
    results: str
    runtime: RuntimeName = "auto"
    num_threads: int = 1
    niceness: int = 10
    memory_limit_mib: int = 0
    log_level: str = "info"
    checkpoints: str = ""
    checkpoint_seconds: float = 10.0
    personal: tuple[str, ...] = ()
    personal_weights: str = ""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A task with both its blobs on disk, their digests checked; every other line.

    Args:
        device: The device's id.
        task: What to do.
        program: Path of the trainable `.tflite`.
        weights: Path of the safetensors file to start from.
    """

    device: str
    task: Task
    program: str
    weights: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a training process needed.

    Args:
        peak_mib: Its memory in RAM at most.
        modules_forbidden: Heavy modules that it has loaded all the same.
    """

    peak_mib: float = 0.0
    modules_forbidden: tuple[str, ...] = ()


class Advance(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """`fraction` of a step of the task is done."""

    task: str
    step: Literal["train", "evaluate"]
    fraction: float


class Completion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task is done; its weights, if any, are a durable blob."""

    result: Result
    usage: Usage


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The task cannot be done."""

    task: str
    reason: str
    usage: Usage


Answer = Advance | Completion | Refusal
