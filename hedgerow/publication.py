"""Which release each channel of a fleet has had: the coordinator's memory of what it published.

`published.json` and the files beside it are all that a promotion or a rollback needs, also when the folder
that a release was built in has gone. What a channel offers is decided here; `publisher.py` puts it out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from .errors import PublicationError
from .protocol import manifest as manifests
from .protocol.blobs import BlobStore, write_durably
from .protocol.manifest import SERVING_KINDS, Manifest, ModelFile
from .protocol.signatures import SigningKey, sign_manifest

PUBLISHED_KINDS = (*SERVING_KINDS, "compiled", "golden")
HISTORY_AT_MOST = 32
Origin = Literal["publish", "promote", "rollback"]


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel offered from some moment on.

    Args:
        channel: The channel.
        signed: The signed manifest as it stands on the wire.
        origin: What brought it there.
        content: The release whose files these are: another one than `release` after a rollback.
        published_at: UTC, ISO 8601.
    """

    channel: str
    signed: str
    origin: Origin
    content: str
    published_at: str

    @property
    def manifest(self) -> Manifest:
        """What was signed."""
        return manifests.decode(self.signed)


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered.

    Args:
        channels: By name, the publications, the newest last.
        pending: One that may not have reached the broker.
        on_broker: The size of every file that may be on the broker, by digest.
    """

    channels: dict[str, tuple[Publication, ...]] = {}
    pending: Publication | None = None
    on_broker: dict[str, int] = {}


class History:
    """Everything that was published, on disk. A context manager: one at a time.

    Args:
        folder: Made if missing.

    Raises:
        PublicationError: The folder cannot be used, or another command works in it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "published.json"
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
            try:
                self.blobs = BlobStore(folder / "blobs")
                self._memory = _read(self._path)
            except BaseException:
                self.close()
                raise

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that was ever published on."""
        return tuple(sorted(self._memory.channels))

    @property
    def pending(self) -> Publication | None:
        """A publication that was decided and may not have reached the broker."""
        return self._memory.pending

    def of(self, channel: str) -> tuple[Publication, ...]:
        """A channel's publications, the one that it offers now last."""
        return self._memory.channels.get(channel, ())

    def current(self, channel: str) -> Publication:
        """What a channel offers now.

        Raises:
            PublicationError: Nothing was ever published on it.
        """
        if not self.of(channel):
            held = ", ".join(self.channels) or "none"
            raise PublicationError(
                f"Expected a channel with a release, received {channel!r}; those that have one: {held}."
            )
        return self.of(channel)[-1]

    def publish(
        self, folder: Path, channel: str, key: SigningKey, *, percent: float, floor: float | None = None
    ) -> Publication:
        """Takes a release that was built into a channel; the same one may be published again.

        Args:
            folder: With `manifest.json` and the files that it names.
            channel: Where to.
            key: Signs.
            percent: Of the devices that follow the channel.
            floor: The accuracy on a device's own samples below which it refuses; None: the manifest's.

        Raises:
            PublicationError: The version is not above those that the fleet has had, and it is not the
                channel's own release again.
            ManifestError: The folder holds no release, or its files are not those of the manifest.
        """
        built = _built(folder)
        files = tuple(file for file in built.files if file.kind in PUBLISHED_KINDS)
        manifest = msgspec.structs.replace(
            built,
            files=files,
            rollout_percent=percent,
            accuracy_floor=built.accuracy_floor if floor is None else floor,
        )
        manifest.file("golden")
        for file in files:
            manifests.check_file(folder / file.name, file)
        here = self.of(channel)
        again = bool(here) and (here[-1].manifest.release, here[-1].manifest.files) == (
            manifest.release,
            files,
        )
        highest = self._highest()
        if not again and highest and not manifests.is_newer(manifest.version, highest):
            raise PublicationError(
                f"Expected a version above {highest}, the highest that this fleet has had, received "
                f"{manifest.version}: devices never go down a version."
            )
        with _translated(folder):
            for file in files:
                self.blobs.put((folder / file.name).read_bytes())
        return self._decided(manifest, channel, "publish", key, content=manifest.release)

    def promote(self, source: str, channel: str, key: SigningKey, *, percent: float) -> Publication:
        """Takes what one channel offers to another, or to more devices of its own.

        It keeps its version where that is above all that the other channel has had, else gets the next one.

        Raises:
            PublicationError: `source` offers nothing.
        """
        offered = self.current(source)
        manifest = msgspec.structs.replace(offered.manifest, rollout_percent=percent)
        here = [one.manifest for one in self.of(channel)]
        again = bool(here) and here[-1].release == manifest.release
        if not again and not all(manifests.is_newer(manifest.version, one.version) for one in here):
            manifest = msgspec.structs.replace(manifest, version=self._next_version())
        return self._decided(manifest, channel, "promote", key, content=offered.content)

    def rollback(self, channel: str, key: SigningKey, *, to: str | None = None) -> Publication:
        """Takes what a channel offered before to all its devices, with a new version: none ever goes down.

        Args:
            channel: The channel.
            key: Signs.
            to: The version to go back to; None: the last one whose content was not rolled back from.

        Raises:
            PublicationError: There is nothing to go back to.
        """
        now, before = self.current(channel), self.of(channel)[:-1]
        steps = zip(self.of(channel), self.of(channel)[1:], strict=False)
        left = {old.content: new.origin for old, new in steps}
        withdrawn = {content for content, origin in left.items() if origin == "rollback"} | {now.content}
        for one in reversed(before):
            if one.manifest.version == to or (to is None and one.content not in withdrawn):
                manifest = msgspec.structs.replace(
                    one.manifest, version=self._next_version(), rollout_percent=100.0
                )
                return self._decided(manifest, channel, "rollback", key, content=one.content)
        known = ", ".join(one.manifest.version for one in before) or "none"
        raise PublicationError(
            f"Expected a release that {channel!r} offered before {now.manifest.version} to go back to, "
            f"received {to or 'no version'}; it offered: {known}."
        )

    def wanted(self) -> dict[str, ModelFile]:
        """Files that are to be on the broker, by digest: of each channel's release, and of the one before."""
        publications = [one for channel in self._memory.channels.values() for one in channel[-2:]]
        publications += [self.pending] if self.pending is not None else []
        return {file.sha256: file for one in publications for file in one.manifest.files}

    def unwanted(self) -> dict[str, int]:
        """The size of every other file that may be on the broker, by digest."""
        wanted = self.wanted()
        return {digest: size for digest, size in self._memory.on_broker.items() if digest not in wanted}

    def will_put(self, files: Iterable[ModelFile]) -> None:
        """Remembers that these files may be on the broker from now on."""
        sizes = {file.sha256: file.size for file in files}
        self._remember(on_broker=self._memory.on_broker | sizes)

    def has_cleared(self, digests: Iterable[str]) -> None:
        """These files are not on the broker any more."""
        gone = set(digests)
        left = {digest: size for digest, size in self._memory.on_broker.items() if digest not in gone}
        self._remember(on_broker=left)

    def has_published(self) -> None:
        """What was pending is on the broker; files that no publication names any more are removed."""
        one = self.pending
        assert one is not None
        publications = self.of(one.channel)
        if publications and publications[-1].manifest.release == one.manifest.release:
            publications = publications[:-1]
        kept = (*publications, one)[-HISTORY_AT_MOST:]
        self._remember(channels=self._memory.channels | {one.channel: kept}, pending=None)
        named = [each for channel in self._memory.channels.values() for each in channel]
        self.blobs.keep({file.sha256 for each in named for file in each.manifest.files})

    def close(self) -> None:
        """Lets others work in the folder."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _decided(
        self, manifest: Manifest, channel: str, origin: Origin, key: SigningKey, *, content: str
    ) -> Publication:
        publication = Publication(
            channel=channel,
            signed=sign_manifest(manifest, key).decode(),
            origin=origin,
            content=content,
            published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._remember(pending=publication)
        return publication

    def _highest(self) -> str:
        """The highest version that any channel has had; empty without any."""
        versions = [one.manifest.version for channel in self._memory.channels.values() for one in channel]
        return max(versions, key=manifests.parse_version, default="")

    def _next_version(self) -> str:
        major, minor, patch = manifests.parse_version(self._highest())
        return f"{major}.{minor}.{patch + 1}"

    def _remember(self, **changes: Any) -> None:
        memory = msgspec.structs.replace(self._memory, **changes)
        with _translated(self._path):
            write_durably(self._path, msgspec.json.format(msgspec.json.encode(memory), indent=1))
        self._memory = memory


def _built(folder: Path) -> Manifest:
    try:
        return manifests.decode((folder / "manifest.json").read_bytes())
    except OSError as error:
        raise PublicationError(
            f"Expected the folder of a release with its manifest.json, received {str(folder)!r}: "
            f"{error.strerror}."
        ) from error


def _read(path: Path) -> _Memory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Memory)
    except FileNotFoundError:
        return _Memory()
    except msgspec.MsgspecError as error:
        raise PublicationError(f"Expected the history of what was published in {path}: {error}.") from error


def _lock(folder: Path) -> int:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise PublicationError(
            f"Expected {folder} for this command alone, another one is publishing.",
            remedy="Wait until it has ended.",
        ) from error
    return handle


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PublicationError(f"Expected to read and write {path}, received: {error}.") from error
