"""`hedgerow release`: what the channels of a fleet offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from .coordinator.config import CoordinatorConfig
    from .protocol.messages import DeviceState
    from .protocol.signatures import SigningKey
    from .publication import Publication

app = typer.Typer(help="Publish releases to the fleet, widen them, take them back.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="The coordinator's TOML file: broker, fleet, folder.")]
Key = Annotated[Path, typer.Option("--key", help="The fleet's signing key, a PEM file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Channel = Annotated[str, typer.Option("--channel", help="The channel that devices follow.")]
Percent = Annotated[float, typer.Option("--percent", help="Of the channel's devices.", min=0.0, max=100.0)]
DEFAULT_CONFIG = Path("hedgerow.toml")


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A publication as programs read it.

    Args:
        channel: The channel.
        release: Name and version.
        content: The release whose files these are.
        origin: "publish", "promote" or "rollback".
        percent: Of the channel's devices.
        accuracy_floor: On a device's own samples; 0 is any.
        files: Names of the files.
        published_at: UTC, ISO 8601.
        offered: Whether the channel offers it now.
    """

    channel: str
    release: str
    content: str
    origin: str
    percent: float
    accuracy_floor: float
    files: tuple[str, ...]
    published_at: str
    offered: bool = True


@app.command()
def keygen(path: Annotated[Path, typer.Argument(help="The new key; its public half gets .pem.")]) -> None:
    """Makes the fleet's signing key PATH and PATH.pem, the public key that devices pin."""
    from .protocol.signatures import SigningKey

    key = SigningKey.generate()
    key.write(path)
    key.verify_key.write(path.with_name(f"{path.name}.pem"))
    typer.echo(
        f"{path} (keep it secret) and {path}.pem (release_key in agent.toml), key {key.verify_key.key_id}"
    )


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A release that `hedgerow convert` built.")],
    key: Key,
    config: Config = DEFAULT_CONFIG,
    channel: Channel = "stable",
    percent: Percent = 100.0,
    floor: Annotated[
        float | None,
        typer.Option(help="Accuracy on a device's own samples below which it refuses.", min=0.0, max=1.0),
    ] = None,
    json: Json = False,
) -> None:
    """Signs a release and offers it on a channel; run again after an interruption it goes on."""
    signing = _key(key)
    _offer(
        config,
        "publish",
        channel,
        lambda history: history.publish(folder, channel, signing, percent=percent, floor=floor),
        json=json,
    )


@app.command()
def promote(
    key: Key,
    config: Config = DEFAULT_CONFIG,
    source: Annotated[str, typer.Option("--from", help="The channel that has it.")] = "canary",
    channel: Annotated[
        str, typer.Option("--to", help="The channel that gets it; may be the same.")
    ] = "stable",
    percent: Percent = 100.0,
    json: Json = False,
) -> None:
    """Takes a channel's release to another channel, or to more devices of its own."""
    signing = _key(key)
    _offer(
        config,
        "promote",
        channel,
        lambda history: history.promote(source, channel, signing, percent=percent),
        json=json,
    )


@app.command()
def rollback(
    key: Key,
    config: Config = DEFAULT_CONFIG,
    channel: Channel = "stable",
    to: Annotated[
        str | None, typer.Option("--to", help="A version it had; by default the last good one.")
    ] = None,
    json: Json = False,
) -> None:
    """Offers what a channel offered before, with a higher version: no device ever goes down one."""
    signing = _key(key)
    _offer(config, "rollback", channel, lambda history: history.rollback(channel, signing, to=to), json=json)


@app.command()
def restore(config: Config = DEFAULT_CONFIG, json: Json = False) -> None:
    """Publishes again what every channel offers, for a broker that has lost its memory."""
    from .protocol.link import Broker
    from .publication import History
    from .publisher import Publisher

    settings = _settings(config)
    with (
        History(_folder(settings)) as history,
        Publisher(Broker.from_url(settings.broker), settings.fleet) as publisher,
    ):
        for one in publisher.restore(history):
            _tell(one, json=json)


@app.command("list")
def list_(
    config: Config = DEFAULT_CONFIG,
    devices: Annotated[
        bool, typer.Option("--devices", help="Ask the broker which release each device runs.")
    ] = False,
    json: Json = False,
) -> None:
    """Shows what every channel offers and offered before, and, if asked, what the devices run."""
    from .publication import History

    settings = _settings(config)
    with History(_folder(settings)) as history:
        offers = [
            _described(one, offered=one is history.of(channel)[-1])
            for channel in history.channels
            for one in history.of(channel)
        ]
    states = _states(settings) if devices else ()
    if json:
        for offer in offers:
            typer.echo(msgspec.json.encode(offer).decode())
        for state in states:
            typer.echo(msgspec.json.encode(_running(state)).decode())
        return
    console = Console()
    console.print(_offers_table(offers))
    if devices:
        console.print(_devices_table(states))


def _offer(config: Path, origin: str, channel: str, decide: Any, *, json: bool) -> None:
    """Finishes what was interrupted, then publishes what `decide` says, unless that was the same."""
    from .protocol.link import Broker
    from .publication import History
    from .publisher import Publisher

    settings = _settings(config)
    with History(_folder(settings)) as history:
        interrupted = history.pending
        finished = interrupted is not None and (interrupted.origin, interrupted.channel) == (origin, channel)
        if interrupted is None or (finished and origin == "publish"):
            decide(history)
        with Publisher(Broker.from_url(settings.broker), settings.fleet) as publisher:
            done = publisher.put_out(history)
            if interrupted is not None and not finished:
                typer.echo(f"finished an interrupted {interrupted.origin} on {interrupted.channel}", err=True)
                decide(history)
                done = publisher.put_out(history)
    _tell(done, json=json)


def _settings(config: Path) -> CoordinatorConfig:
    from .coordinator.config import CoordinatorConfig

    return CoordinatorConfig.load(config)


def _folder(settings: CoordinatorConfig) -> Path:
    return settings.folder / "releases"


def _key(path: Path) -> SigningKey:
    from .protocol.signatures import SigningKey

    return SigningKey.read(path)


def _states(settings: CoordinatorConfig) -> tuple[DeviceState, ...]:
    from .protocol.link import Broker
    from .publisher import Publisher

    with Publisher(Broker.from_url(settings.broker), settings.fleet) as publisher:
        return publisher.states(2.0)


def _described(publication: Publication, *, offered: bool = True) -> Offer:
    manifest = publication.manifest
    return Offer(
        channel=publication.channel,
        release=manifest.release,
        content=publication.content,
        origin=publication.origin,
        percent=manifest.rollout_percent,
        accuracy_floor=manifest.accuracy_floor,
        files=tuple(file.name for file in manifest.files),
        published_at=publication.published_at,
        offered=offered,
    )


def _tell(publication: Publication, *, json: bool) -> None:
    offer = _described(publication)
    if json:
        typer.echo(msgspec.json.encode(offer).decode())
        return
    what = (
        offer.release if offer.content == offer.release else f"{offer.release} (the files of {offer.content})"
    )
    typer.echo(f"{offer.channel} offers {what} to {offer.percent:g} % of its devices")


def _running(state: DeviceState) -> dict[str, Any]:
    wanted = ("release", "release_refused", "release_accuracy", "accelerator", "cpu_because")
    return {"device": state.device, "online": state.online} | {
        name: state.capabilities[name] for name in wanted if name in state.capabilities
    }


def _offers_table(offers: list[Offer]) -> Table:
    table = Table("channel", "release", "files of", "by", "devices", "floor", "published (UTC)", "")
    for offer in offers:
        table.add_row(
            offer.channel,
            offer.release,
            "" if offer.content == offer.release else offer.content,
            offer.origin,
            f"{offer.percent:g} %",
            f"{offer.accuracy_floor:g}" if offer.accuracy_floor else "",
            offer.published_at.removesuffix("+00:00").replace("T", " "),
            "offered" if offer.offered else "",
        )
    return table


def _devices_table(states: tuple[DeviceState, ...]) -> Table:
    table = Table("device", "", "runs", "accuracy", "on", "refused")
    for state in states:
        said = state.capabilities
        table.add_row(
            state.device,
            "online" if state.online else "offline",
            str(said.get("release", "")),
            str(said.get("release_accuracy", "")),
            str(said.get("accelerator") or "CPU"),
            str(said.get("release_refused", "")),
        )
    return table
