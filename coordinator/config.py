"""What a coordinator is told: one frozen object, read from `hedgerow.toml`, that checks itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from ..errors import CoordinatorConfigError
from ..protocol.link import Broker
from ..protocol.messages import Scalar
from ..protocol.topics import check_name

Positive = Annotated[int, msgspec.Meta(ge=1)]


class StrategyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Flower strategy, and its keyword arguments.

    Args:
        name: A class of `flwr.serverapp.strategy`.
        arguments: What its constructor takes; the node counts are filled in from the coordinator's own.
    """

    name: str = "FedAvg"
    arguments: dict[str, Scalar] = {}


class CoordinatorConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """All of it.

    Args:
        broker: `mqtt://` or `mqtts://` address.
        fleet: `[a-z0-9-]{1,48}`.
        model: The trainable `.tflite`; its weights are the model of round 0.
        folder: The journal, the blobs and the result; relative paths count from the file's own folder.
        rounds: How many rounds to run.
        round_seconds: A phase closes after so long with the updates that it has.
        start_devices: The first round waits until so many devices are online.
        minimum_devices: Every later round does.
        uploads: How many devices may upload at once.
        seed: Of the sampling.
        test_data: An `.npz` with `x` and `y` that every global model is evaluated on.
        strategy: Flower's.
        train: What the devices are told for training ("epochs", "learning-rate").
        evaluate: What they are told for evaluation.
    """

    broker: str
    fleet: str
    model: Path
    folder: Path = Path("coordinator")
    rounds: Positive = 5
    round_seconds: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    start_devices: Positive = 2
    minimum_devices: Positive = 2
    uploads: Positive = 8
    seed: int = 0
    test_data: Path | None = None
    strategy: StrategyConfig = StrategyConfig()
    train: dict[str, Scalar] = {}
    evaluate: dict[str, Scalar] = {}

    def __post_init__(self) -> None:
        check_name(self.fleet, what="fleet name")
        Broker.from_url(self.broker)

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
            model=base / config.model,
            folder=base / config.folder,
            test_data=None if config.test_data is None else base / config.test_data,
        )

    def write(self, path: Path) -> None:
        """Writes the TOML file that `load` takes."""
        path.write_bytes(msgspec.toml.encode(self, enc_hook=str))


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
