"""What the journal keeps: a record each for a phase and for a round."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.messages import BlobReference, FlowerMessage, Scalar

PhaseName = Literal["train", "evaluate", "messages"]


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a Flower ServerApp.

    Args:
        task: Its name.
        device: For whom.
        content: Its records, on disk until all answers have come.
        message: What it says beside them.
    """

    task: str
    device: str
    content: BlobReference
    message: FlowerMessage


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """A training task that had no answer when its phase closed, and may have one in a later round.

    Args:
        task: Its name.
        device: Who works on it.
        round: In which it was asked for.
        weights: The model that it starts from.
        config: What the strategy wanted the device to know.
        seconds: The device's own deadline, from the opening of each phase.
    """

    task: str
    device: str
    round: int
    weights: BlobReference
    config: dict[str, Scalar]
    seconds: float


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A phase that was opened.

    Args:
        round: Counts from 1.
        phase: "train" or "evaluate"; "messages" of a Flower ServerApp.
        weights: The model that was sent out.
        available: The devices to choose from; with the seed they decide which ones a strategy samples.
        closed: Why it closed; empty while updates are collected.
        result: The model after aggregation; None until then.
        metrics: Aggregated metrics.
        devices: How many updates were counted.
        failure: Why the updates were not aggregated, if they were not.
        bytes_up: Bytes of updates that came in.
        bytes_down: Bytes of blobs that went out.
        seconds: From the opening to the aggregation.
        letters: The messages of a Flower ServerApp.
        earlier: Tasks of earlier rounds whose answers count in this phase.
        outstanding: Tasks that had no answer when it closed, and may have one in the next round.
    """

    round: int
    phase: PhaseName
    weights: BlobReference
    available: tuple[str, ...]
    closed: str = ""
    result: BlobReference | None = None
    metrics: dict[str, float] = {}
    devices: int = 0
    failure: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    letters: tuple[Letter, ...] = ()
    earlier: tuple[Outstanding, ...] = ()
    outstanding: tuple[Outstanding, ...] = ()


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A round that is over; what `hedgerow coordinator rounds` shows.

    Args:
        round: Counts from 1; 0 is the model before the first round.
        devices: How many updates were aggregated.
        device_loss: On the devices' own test samples, after the round.
        device_accuracy: Likewise.
        held_out_loss: On the coordinator's own test data, if it has any.
        held_out_accuracy: Likewise.
        seconds: Training and evaluation together.
        bytes_down: Bytes of blobs that the coordinator published.
        bytes_up: Bytes of updates that it received.
        weights: The model after the round.
        failure: Why the model is still the one before, if it is.
    """

    round: int
    devices: int
    device_loss: float | None
    device_accuracy: float | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    weights: BlobReference
    failure: str = ""
