"""What a coordinator is told: one frozen object, read from `hedgerow.toml`, that checks itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ..errors import CoordinatorConfigError, ManifestError
from ..protocol import manifest
from ..protocol.link import Broker
from ..protocol.messages import CONFIG_BYTES_AT_MOST, Scalar, travels
from ..protocol.topics import check_name
from .selection import Eligibility

Positive = Annotated[int, msgspec.Meta(ge=1)]


class StrategyConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Which Flower strategy, and its keyword arguments.

    Args:
        name: A class of `flwr.serverapp.strategy`.
        arguments: What its constructor takes; one node is enough unless they say otherwise.
        wrapped: The strategy inside, for those of differential privacy; FedAvg by default.
    """

    name: str = "FedAvg"
    arguments: dict[str, Scalar] = {}
    wrapped: StrategyConfig | None = None


class CoordinatorConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """All of it.

    Args:
        broker: `mqtt://` or `mqtts://` address.
        fleet: `[a-z0-9-]{1,48}`.
        model: The trainable `.tflite`; its weights are the model of round 0.
        release: In its place a release's folder, which has such a file.
        folder: The journal, the blobs and the result; relative paths count from the file's own folder.
        rounds: How many rounds to run.
        round_seconds: A phase closes after so long with the updates that it has.
        start_devices: The first round waits until so many devices are there.
        minimum_devices: Every later round does.
        minimum_updates: With fewer at the deadline, the round changes nothing.
        over_selection: So many times the devices that the strategy samples are asked, if there are so many.
        device_factor: A device's own deadline is so many times its slowest of the last answers; 0: none.
        device_seconds: And at least so long.
        asleep_seconds: A device that went offline may still be asked for so long: it hears of its task when
            it is back, and only the deadline ends the wait.
        uploads: How many devices may upload at once.
        examples_at_most: An update that claims more training samples is refused.
        codec: How weights travel, both ways: "f32", or "f16" for half the bytes.
        eligible: What a device must be to be asked.
        metrics_port: Prometheus metrics are served there; 0: nowhere.
        seed: Of the sampling.
        test_data: An `.npz` with `x` and `y` that every global model is evaluated on.
        strategy: Flower's.
        train: What the devices are told for training ("epochs", "learning-rate").
        evaluate: What they are told for evaluation.
    """

    broker: str
    fleet: str
    model: Path | None = None
    release: Path | None = None
    folder: Path = Path("coordinator")
    rounds: Positive = 5
    round_seconds: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    start_devices: Positive = 2
    minimum_devices: Positive = 2
    minimum_updates: Positive = 1
    over_selection: Annotated[float, msgspec.Meta(ge=1)] = 1.3
    device_factor: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    device_seconds: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    asleep_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    uploads: Positive = 8
    examples_at_most: Positive = 10_000_000
    codec: Literal["f32", "f16"] = "f32"
    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    eligible: Eligibility = Eligibility()
    seed: int = 0
    test_data: Path | None = None
    strategy: StrategyConfig = StrategyConfig()
    train: dict[str, Scalar] = {}
    evaluate: dict[str, Scalar] = {}

    def __post_init__(self) -> None:
        check_name(self.fleet, what="fleet name")
        Broker.from_url(self.broker)
        if (self.model is None) == (self.release is None):
            both = "neither" if self.model is None else "both"
            raise CoordinatorConfigError(f"Expected either a model or a release, received {both}.")
        for table, values in (("train", self.train), ("evaluate", self.evaluate)):
            if not travels(values):
                raise CoordinatorConfigError(
                    f"Expected finite numbers and texts of {CONFIG_BYTES_AT_MOST} bytes together in"
                    f" [{table}], received {str(values)[:200]}."
                )

    @property
    def trainable(self) -> Path:
        """The trainable file.

        Raises:
            CoordinatorConfigError: The release is none, or has no such file.
        """
        if self.release is None:
            assert self.model is not None
            return self.model
        try:
            held = manifest.decode((self.release / "manifest.json").read_bytes())
            file = held.file("trainable")
            manifest.check_file(self.release / file.name, file)
        except (OSError, ManifestError) as error:
            reason = error.args[0] if isinstance(error, ManifestError) else error
            raise CoordinatorConfigError(
                f"Expected a release with a trainable file in {self.release}, received: {reason}"
            ) from error
        return self.release / file.name

    @classmethod
    def load(cls, path: Path) -> CoordinatorConfig:
        """Reads a TOML file.

        Raises:
            CoordinatorConfigError: The file is missing, is no TOML, or a value does not fit.
        """
        try:
            config = msgspec.toml.decode(path.read_bytes(), type=cls, dec_hook=_path)
        except (OSError, msgspec.MsgspecError) as error:
            raise CoordinatorConfigError(
                f"Expected a coordinator's configuration in {path}, received: {error}."
            ) from error
        base = path.resolve().parent
        return msgspec.structs.replace(
            config,
            folder=base / config.folder,
            **{
                name: base / path
                for name in ("model", "release", "test_data")
                if (path := getattr(config, name)) is not None
            },
        )

    def write(self, path: Path) -> None:
        """Writes the TOML file that `load` takes."""
        path.write_bytes(msgspec.toml.encode(self, enc_hook=str))


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
