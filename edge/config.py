"""The agent's configuration: a frozen object that checks itself and round-trips to TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, get_args

import msgspec

from ..errors import AgentConfigError, BrokerUrlError, TargetError, TopicError
from ..hardware import targets
from ..hardware.runtime import RuntimeName
from ..protocol.blobs import write_durably
from ..protocol.link import Broker
from ..protocol.topics import check_name
from .readiness import ReadinessPolicy
from .sample_policy import SamplePolicy

LogLevel = Literal["debug", "info", "warning", "error"]


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one agent needs to know; the fields of `agent.toml`.

    Args:
        device: The device's id, `[a-z0-9-]{1,48}`: also its MQTT client id and its topic level.
        fleet: The fleet it belongs to, `[a-z0-9-]{1,48}`.
        broker: `mqtt://[user:password@]host[:port]`, or `mqtts://...`.
        folder: The state folder, made if missing. Nothing is written outside it.
        samples: The folder with the device's own samples: a sample store, or `train.npz` and `test.npz`.
        runtime: The TFLite runtime; "auto" takes the one that is installed.
        num_threads: Threads of the runtime. On tflite-runtime 2.14 two are slower than one.
        blob_limit_mib: Larger models are refused.
        log_level: Of the log.
        log_file: Where the log goes; empty: to standard error, for systemd's journal.
        log_limit_mib: A log file that is larger is put aside.
        log_files: So many of those are kept.
        channel: The release channel that the device follows; empty: none.
        release_key: PEM file with the public key whose releases this device runs; empty: none.
        target: The accelerator of this device, as `hedgerow targets` names it; empty without one.
        delegate: The accelerator's library, where it is not the usual one.
        accuracy_floor: A release that answers the device's own test samples worse does not serve, 0 to 1.
        accuracy_samples: With fewer test samples no accuracy is measured.
        personal: Patterns of weights that stay on the device, such as "*/head/*": trained here, never sent.
        niceness: How far training stands back behind other programs, 0 to 19.
        memory_limit_mib: What training may use; 0 is all there is.
        checkpoint_seconds: So often training writes down where it stands; 0 is after every step.
        sampling: What the sample store keeps.
        readiness: When the device may train.

    Raises:
        AgentConfigError: A value is outside its range.
    """

    device: str
    fleet: str
    broker: str
    folder: str
    samples: str
    runtime: RuntimeName = "auto"
    num_threads: int = 1
    blob_limit_mib: int = 256
    log_level: LogLevel = "info"
    log_file: str = ""
    log_limit_mib: int = 4
    log_files: int = 3
    channel: str = ""
    release_key: str = ""
    target: str = ""
    delegate: str = ""
    accuracy_floor: float = 0.0
    accuracy_samples: int = 20
    personal: tuple[str, ...] = ()
    niceness: int = 10
    memory_limit_mib: int = 0
    checkpoint_seconds: float = 10.0
    sampling: SamplePolicy = SamplePolicy()
    readiness: ReadinessPolicy = ReadinessPolicy()

    def __post_init__(self) -> None:
        try:
            check_name(self.device, what="device id")
            check_name(self.fleet, what="fleet name")
            Broker.from_url(self.broker)
            if self.channel:
                check_name(self.channel, what="channel")
            if self.target:
                targets.load(self.target)
        except (TopicError, BrokerUrlError, TargetError) as error:
            raise AgentConfigError(error.args[0], remedy=error.remedy) from error
        for name in ("folder", "samples"):
            if not getattr(self, name):
                raise AgentConfigError(f"Expected a path as {name!r}, received an empty one.", field=name)
        for name, smallest, largest in (
            ("num_threads", 1, 64),
            ("blob_limit_mib", 1, 2048),
            ("niceness", 0, 19),
            ("log_limit_mib", 1, 1024),
            ("log_files", 1, 100),
            ("checkpoint_seconds", 0, 86_400),
            ("accuracy_floor", 0, 1),
            ("accuracy_samples", 1, 1_000_000),
            ("memory_limit_mib", 0, 1 << 20),
        ):
            value = getattr(self, name)
            if not smallest <= value <= largest:
                raise AgentConfigError(
                    f"Expected {name!r} from {smallest} to {largest}, received {value}.", field=name
                )
        for name, choices in (("runtime", get_args(RuntimeName)), ("log_level", get_args(LogLevel))):
            if getattr(self, name) not in choices:
                raise AgentConfigError(
                    f"Expected {name!r} to be one of {', '.join(choices)}, received {getattr(self, name)!r}.",
                    field=name,
                )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads an `agent.toml`; relative folders in it count from where the file lies.

        Raises:
            AgentConfigError: There is no such file, or it cannot be used.
        """
        try:
            config = msgspec.toml.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise AgentConfigError(
                f"Expected a configuration at {path}, received: {error.strerror}."
            ) from error
        except msgspec.MsgspecError as error:
            raise AgentConfigError(
                f"Expected an agent.toml in {path}, received one with: {error}."
            ) from error
        parent = path.resolve().parent
        return msgspec.structs.replace(
            config,
            folder=str(parent / config.folder),
            samples=str(parent / config.samples),
            release_key=str(parent / config.release_key) if config.release_key else "",
            log_file=str(parent / config.log_file) if config.log_file else "",
        )

    def to_toml(self) -> str:
        """The text of an `agent.toml` that `load` reads as this configuration."""
        return msgspec.toml.encode(self).decode()

    def write(self, path: Path) -> None:
        """Writes an `agent.toml`, whole or not at all."""
        write_durably(path, self.to_toml().encode())
