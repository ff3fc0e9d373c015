"""What the coordinator and the devices say to each other: one class a message, JSON on the wire.

Every message names its sender's incarnation (or the coordinator's epoch) and counts up, so that a receiver
can drop what it has seen and what is stale: MQTT at QoS 1 may deliver twice, late, and in another order.
Unknown fields are ignored, so that a newer side can talk to an older one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ..errors import MessageError
from .topics import Place

Scalar = bool | int | float | str
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,48}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
TaskId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,96}$")]
Reason = Annotated[str, msgspec.Meta(max_length=2000)]
Label = Annotated[str, msgspec.Meta(max_length=128)]
Codec = Literal["f32", "f16", "file", "flower"]

BLOB_LIMIT_BYTES = 1 << 31
CHUNK_BYTES = 1 << 16
CONTROL_BYTES_AT_MOST = 1 << 16
CONFIG_BYTES_AT_MOST = 48 << 10

# The capability by which a device says which Flower app it answers for, "publisher/name".
FLOWER_APP = "flower_app"


class BlobReference(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes named by their SHA-256, and how they are cut.

    Args:
        sha256: 64 lower-case hexadecimal digits.
        size: In bytes.
        chunk_bytes: Of every chunk but the last.
        codec: How tensors are written in it ("f32", "f16": safetensors of that type), "flower" for the
            records of a Flower message, or "file".
    """

    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=BLOB_LIMIT_BYTES)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 20)] = CHUNK_BYTES
    codec: Codec = "file"

    @property
    def chunks(self) -> int:
        """How many chunks it is cut into."""
        return -(-self.size // self.chunk_bytes)

    def chunk_size(self, number: int) -> int:
        """The bytes of chunk `number`, counted from 0."""
        return min(self.chunk_bytes, self.size - number * self.chunk_bytes)


class CoordinatorState(msgspec.Struct, frozen=True, kw_only=True, tag="coordinator", tag_field="kind"):
    """Retained, and the coordinator's will.

    Args:
        online: False in the will and at an orderly stop.
        epoch: Counts the coordinator's connections; a device that sees a new one announces itself again.
        run: Names the coordinator's journal, so that two coordinators of one fleet find out about each other.
    """

    online: bool
    epoch: Count
    run: Label = ""


class _FromDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What every message of a device carries.

    Args:
        device: The sender; must equal the topic's level.
        incarnation: Counts the device's starts.
        counter: Counts the messages of this incarnation.
        epoch: The coordinator's epoch as the device last saw it.
    """

    device: Name
    incarnation: Count
    counter: Count
    epoch: Count = 0


class DeviceState(_FromDevice, frozen=True, kw_only=True, tag="state", tag_field="kind"):
    """Retained, and the device's will: its birth and death.

    Args:
        online: False in the will and at an orderly stop.
        agent: Version of the agent.
        runtime: Name and version of the TFLite runtime.
        examples: The device's own training samples.
        capabilities: Whatever else a strategy may choose by (architecture, memory, battery).
        tasks: Unfinished and unsettled tasks that the device holds.
    """

    online: bool
    agent: Label = ""
    runtime: Label = ""
    examples: Count = 0
    capabilities: Annotated[dict[Label, Scalar], msgspec.Meta(max_length=64)] = {}
    tasks: Annotated[tuple[TaskId, ...], msgspec.Meta(max_length=256)] = ()


class Accepted(_FromDevice, frozen=True, kw_only=True, tag="accepted", tag_field="kind"):
    """The device has the task and will work on it."""

    task: TaskId


class Progress(_FromDevice, frozen=True, kw_only=True, tag="progress", tag_field="kind"):
    """How far a task is, for people who watch.

    Args:
        step: What the device is doing.
        fraction: Done of this step, 0 to 1.
    """

    task: TaskId
    step: Literal["download", "train", "evaluate", "upload"]
    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Failed(_FromDevice, frozen=True, kw_only=True, tag="failed", tag_field="kind"):
    """The device cannot do the task; it will not be tried again."""

    task: TaskId
    reason: Reason


class Update(_FromDevice, frozen=True, kw_only=True, tag="update", tag_field="kind"):
    """A finished task, durable in the device's spool; said again until it is settled.

    Args:
        task: The task it answers.
        round: The task's round.
        num_examples: Samples it was trained or evaluated on.
        metrics: Loss and others, averaged over those samples.
        weights: The new weights; None for an evaluation.
        seconds: What the work took.
    """

    task: TaskId
    round: Count
    num_examples: Count
    metrics: Annotated[dict[Label, float], msgspec.Meta(max_length=64)] = {}
    weights: BlobReference | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Missing(_FromDevice, frozen=True, kw_only=True, tag="missing", tag_field="kind"):
    """The broker lacks chunks that the device needs (it was restarted without its retained messages)."""

    sha256: Sha256
    chunks: Annotated[tuple[Count, ...], msgspec.Meta(max_length=1024)]


class _ToDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What every message of the coordinator carries.

    Args:
        device: The receiver.
        epoch: Counts the coordinator's starts.
        counter: Counts the messages of this epoch.
    """

    device: Name
    epoch: Count
    counter: Count


class FlowerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a message to a Flower ClientApp says beside its content.

    Args:
        app: "publisher/name" of the app that is to answer.
        run_id: Names the run; the app's state on the device lasts as long as it.
        node_id: The device's number among Flower's nodes.
        message_type: "train", "evaluate" or "query", and after a dot the action.
        group_id: Flower's own group of messages, as a rule the round.
        ttl_seconds: How long the message and its reply are of use.
        run_config: The app's configuration for this run.
    """

    app: Label
    run_id: Count
    node_id: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    message_type: Label
    group_id: Reason = ""
    ttl_seconds: Annotated[float, msgspec.Meta(gt=0)] = 43_200.0
    run_config: Annotated[dict[str, Scalar], msgspec.Meta(max_length=1024)] = {}


class Task(_ToDevice, frozen=True, kw_only=True, tag="task", tag_field="kind"):
    """What a device is asked to do.

    Args:
        task: Names the task; the same in every repetition.
        round: Counts from 1.
        phase: Train and send the weights back, or evaluate and send metrics; a Flower app is also queried.
        program: The trainable `.tflite`; of a Flower message its content again: nothing more is fetched.
        weights: The model to start from, safetensors by Keras path; or the content of a Flower message.
        config: What Flower's strategy put into the message's ConfigRecord (learning rate, epochs).
        codec: How the device is to write its update's tensors.
        deadline_seconds: From now on the answer is no longer of use.
        flower: A message for the device's Flower ClientApp; None for a task of our own agent.
    """

    task: TaskId
    round: Count
    phase: Literal["train", "evaluate", "query"]
    program: BlobReference
    weights: BlobReference
    config: dict[str, Scalar] = {}
    codec: Codec = "f32"
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    flower: FlowerMessage | None = None


class Grant(_ToDevice, frozen=True, kw_only=True, tag="grant", tag_field="kind"):
    """The device may upload these chunks of its update now; everything not named is stored or has to wait."""

    task: TaskId
    sha256: Sha256
    chunks: Annotated[tuple[Count, ...], msgspec.Meta(max_length=1024)]


class Settled(_ToDevice, frozen=True, kw_only=True, tag="settled", tag_field="kind"):
    """The update is stored, or refused for good: the device may forget it. Nothing else clears the spool.

    Args:
        accepted: False: it was refused, and `reason` says why.
    """

    task: TaskId
    accepted: bool
    reason: Reason = ""


class Cancel(_ToDevice, frozen=True, kw_only=True, tag="cancel", tag_field="kind"):
    """The task is no longer wanted: its round has closed."""

    task: TaskId
    reason: Reason = ""


class ChunkHeader(_FromDevice, frozen=True, kw_only=True, tag="chunk", tag_field="kind"):
    """In front of the bytes of one uploaded chunk."""

    task: TaskId
    sha256: Sha256
    chunk: Count


class Chunk(msgspec.Struct, frozen=True):
    """One chunk of an update on its way up: two bytes of header length, the header in JSON, the bytes."""

    header: ChunkHeader
    data: bytes


UpMessage = Accepted | Progress | Failed | Update | Missing | Chunk
DownMessage = Task | Grant | Settled | Cancel
Message = CoordinatorState | DeviceState | UpMessage | DownMessage

CLASSES: dict[str, Any] = {
    "coordinator": CoordinatorState,
    "state": DeviceState,
    "up/accepted": Accepted,
    "up/progress": Progress,
    "up/failed": Failed,
    "up/update": Update,
    "up/missing": Missing,
    "up/chunk": ChunkHeader,
    "down/task": Task,
    "down/grant": Grant,
    "down/settled": Settled,
    "down/cancel": Cancel,
}
_encoder = msgspec.json.Encoder()
_decoders = {kind: msgspec.json.Decoder(cls) for kind, cls in CLASSES.items()}
_config_decoder = msgspec.json.Decoder(dict[str, Scalar])
_LENGTH = struct.Struct(">H")
M = TypeVar("M", bound=_FromDevice)


def kind_of(message: Message) -> str:
    """The last level of the topic a message travels on, as in `up/{kind}`."""
    struct_ = message.header if isinstance(message, Chunk) else message
    return str(struct_.__struct_config__.tag)


def encode(message: Message) -> bytes:
    """A message as it stands on the wire."""
    if isinstance(message, Chunk):
        header = _encoder.encode(message.header)
        return _LENGTH.pack(len(header)) + header + message.data
    return _encoder.encode(message)


def travels(values: Mapping[str, Scalar]) -> bool:
    """Whether a configuration reaches a device as it is: JSON has no NaN, and messages have a limit."""
    try:
        data = _encoder.encode(values)
        return len(data) <= CONFIG_BYTES_AT_MOST and _config_decoder.decode(data) == values
    except (msgspec.MsgspecError, OverflowError):
        return False


def decode(place: Place, payload: bytes) -> Message:
    """The message in `payload`, typed by the topic it came on.

    Raises:
        MessageError: The payload is not a valid message of that kind, or names another device than its topic.
    """
    decoder = _decoders.get(place.kind)
    if decoder is None:
        raise MessageError(
            f"Expected one of the message kinds {', '.join(CLASSES)}, received {place.kind!r}."
        )
    try:
        message: Any
        if place.kind != "up/chunk" and len(payload) > CONTROL_BYTES_AT_MOST:
            raise ValueError(f"{len(payload)} bytes, of at most {CONTROL_BYTES_AT_MOST}")
        if place.kind == "up/chunk":
            (length,) = _LENGTH.unpack_from(payload)
            message = Chunk(decoder.decode(payload[2 : 2 + length]), payload[2 + length :])
            sender = message.header.device
        else:
            message = decoder.decode(payload)
            sender = getattr(message, "device", "")
    except (msgspec.MsgspecError, struct.error, RecursionError, ValueError) as error:
        raise MessageError(
            f"Expected a message of kind {place.kind!r}, received {payload[:80]!r}: {error}."
        ) from error
    if sender != place.device:
        raise MessageError(
            f"Expected a message of device {place.device!r} by its topic, received one of {sender!r}."
        )
    return message  # type: ignore[no-any-return]
