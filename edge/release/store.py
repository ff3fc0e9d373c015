"""The releases on this device: which one serves, which one served before, and what was refused.

`current.json` is the one thing that says what serves. It is replaced as a whole, after every file it names is
on disk, so that at any moment, also after a crash, it names a release that was verified and passed its test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec

from ... import __version__
from ...errors import HedgerowError, ManifestError, RefusedReleaseError
from ...protocol import manifest as manifests
from ...protocol.blobs import write_durably
from ...protocol.manifest import Kind, Manifest, ModelFile
from ...protocol.signatures import VerifyKey, verify_manifest
from ..config import AgentConfig
from .self_test import GOLDEN_KIND, run_self_test

REFUSED_AT_MOST = 32
TRIALS_AT_MOST = 3
# The first kind that a release has serves; files of dynamic range are wrong on tflite-runtime 2.14.
SERVING_KINDS: tuple[Kind, ...] = ("int8", "int16x8", "float32", "float16")


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A release on disk that has passed its self-test.

    Args:
        release: Its name and version, also its folder.
        version: `MAJOR.MINOR.PATCH`.
        model: The model file that serves.
        proven: A program on this device has predicted with it.
        trials: Programs that began to use it before one succeeded.
    """

    release: str
    version: str
    model: ModelFile
    proven: bool = False
    trials: int = 0


class ReleaseState(msgspec.Struct, frozen=True, kw_only=True):
    """What `current.json` says.

    Args:
        current: What serves.
        previous: What served before, kept to fall back to.
        highest: The highest version that was ever installed; lower ones are refused.
        refused: Releases that failed here, and why.
    """

    current: Installed | None = None
    previous: Installed | None = None
    highest: str = "0.0.0"
    refused: dict[str, str] = {}


class ReleaseStore:
    """Releases in a folder; several processes may use it at once.

    Args:
        folder: Made if missing.
        keys: Whose signatures count.
        target: The chip that compiled files are for, besides the CPU; empty without one.
        limit_mib: Larger releases are refused.
    """

    def __init__(
        self, folder: Path, keys: tuple[VerifyKey, ...], *, target: str = "", limit_mib: int = 256
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._target = target
        self._limit_bytes = limit_mib << 20
        self.state_path = folder / "current.json"
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_device(cls, config: AgentConfig) -> Self:
        """The releases of the device that `config` describes.

        Raises:
            SignatureError: The key that it names cannot be read.
        """
        keys = (VerifyKey.read(config.release_key),) if config.release_key else ()
        folder = Path(config.folder) / "releases"
        return cls(folder, keys, target=config.target, limit_mib=config.blob_limit_mib)

    def state(self) -> ReleaseState:
        """What serves now."""
        try:
            return msgspec.json.decode(self.state_path.read_bytes(), type=ReleaseState)
        except FileNotFoundError:
            return ReleaseState()

    def path(self, installed: Installed) -> Path:
        """The model file of an installed release, its digest checked.

        Raises:
            ManifestError: The disk has lost or changed it.
        """
        path = self._folder / installed.release / installed.model.name
        manifests.check_file(path, installed.model)
        return path

    def check(self, signed: bytes) -> tuple[Manifest, tuple[ModelFile, ...]]:
        """Judges a manifest and names the files of the release that this device needs.

        Raises:
            SignatureError: None of our keys signed it.
            ManifestError: It is no manifest, or has no file for this device.
            RefusedReleaseError: It is not newer than what was here, was refused before, is too large, or
                needs a newer agent.
        """
        manifest = verify_manifest(signed, self._keys)
        state = self.state()
        if not manifests.is_newer(manifest.version, state.highest):
            raise RefusedReleaseError(
                f"Expected a version above {state.highest}, received {manifest.version}: versions only go up."
            )
        if manifest.release in state.refused:
            reason = state.refused[manifest.release]
            raise RefusedReleaseError(f"{manifest.release} was refused before: {reason}")
        if manifests.is_newer(manifest.minimum_agent, __version__):
            raise RefusedReleaseError(
                f"Expected a release for agent {__version__}, received one for {manifest.minimum_agent}.",
                remedy="Update the agent.",
            )
        files = (self._serving_file(manifest), manifest.file(GOLDEN_KIND))
        size = sum(file.size for file in files)
        if size > self._limit_bytes:
            raise RefusedReleaseError(
                f"Expected at most {self._limit_bytes} bytes, received a release of {size}."
            )
        return manifest, files

    def install(self, signed: bytes, sources: Mapping[str, Path]) -> Installed:
        """Checks a release, tries it in a process of its own and makes it the one that serves.

        Args:
            signed: The signed manifest.
            sources: Where the bytes of each needed file are, by file name.

        Raises:
            HedgerowError: As `check`; or a digest is wrong, or the self-test failed. What served still
                serves, and the release is not tried again.
            OSError: The disk failed; nothing has changed.
        """
        with self._locked():
            manifest, files = self.check(signed)
            folder = self._folder / manifest.release
            try:
                for file in files:
                    manifests.check_file(sources[file.name], file)
                    write_durably(folder / file.name, sources[file.name].read_bytes())
                    manifests.check_file(folder / file.name, file)
                write_durably(folder / "manifest.json", signed)
                serving, golden = files
                run_self_test(folder / serving.name, folder / golden.name)
            except HedgerowError as error:
                shutil.rmtree(folder, ignore_errors=True)
                self._refuse(manifest.release, error.args[0])
                raise
            installed = Installed(release=manifest.release, version=manifest.version, model=serving)
            before = self.state()
            self._write(
                ReleaseState(
                    current=installed,
                    previous=before.current,
                    highest=manifest.version,
                    refused=before.refused,
                )
            )
            self._remove_others()
            return installed

    def begin_trial(self, installed: Installed) -> Installed | None:
        """A program begins to use the release; the one to use instead when too many never got further.

        A file that takes the whole process down leaves nobody to report it, but it leaves its trials.
        """
        with self._locked():
            state = self.state()
            if state.current is None or state.current.release != installed.release or state.current.proven:
                return state.current
            if state.current.trials >= TRIALS_AT_MOST:
                return self._fall_back(f"{TRIALS_AT_MOST} programs ended while they began to use it.")
            self._write(
                msgspec.structs.replace(
                    state,
                    current=msgspec.structs.replace(state.current, trials=state.current.trials + 1),
                )
            )
            return installed

    def prove(self, installed: Installed) -> None:
        """A program has predicted with the release."""
        with self._locked():
            state = self.state()
            if state.current is not None and state.current.release == installed.release:
                proven = msgspec.structs.replace(state.current, proven=True)
                self._write(msgspec.structs.replace(state, current=proven))

    def fall_back(self, failed: Installed, reason: str) -> Installed | None:
        """Takes a release out of service, for good; the one before serves again, if there is one."""
        with self._locked():
            state = self.state()
            if state.current is None or state.current.release != failed.release:
                return state.current
            return self._fall_back(reason)

    def _fall_back(self, reason: str) -> Installed | None:
        state = self.state()
        assert state.current is not None
        self._write(ReleaseState(current=state.previous, highest=state.highest, refused=state.refused))
        self._refuse(state.current.release, reason)
        return state.previous

    def _refuse(self, release: str, reason: str) -> None:
        state = self.state()
        refused = dict([*state.refused.items(), (release, reason[:500])][-REFUSED_AT_MOST:])
        self._write(msgspec.structs.replace(state, refused=refused))

    def _write(self, state: ReleaseState) -> None:
        write_durably(self.state_path, msgspec.json.encode(state))

    def _serving_file(self, manifest: Manifest) -> ModelFile:
        if self._target:
            with contextlib.suppress(ManifestError):
                return manifest.file("compiled", target=self._target)
        for kind in SERVING_KINDS:
            with contextlib.suppress(ManifestError):
                return manifest.file(kind)
        held = sorted({file.kind for file in manifest.files})
        raise ManifestError(f"Expected one of the kinds {', '.join(SERVING_KINDS)}, received only {held}.")

    def _remove_others(self) -> None:
        """Removes every release but the two that may serve; a program that has one mapped keeps its bytes."""
        state = self.state()
        kept = {one.release for one in (state.current, state.previous) if one is not None}
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
