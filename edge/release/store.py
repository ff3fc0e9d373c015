"""The releases on this device: verified, tried, swapped, and taken back."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec

from ... import __version__
from ...errors import HedgerowError, RefusedReleaseError
from ...protocol import manifest as manifests
from ...protocol.blobs import write_durably
from ...protocol.manifest import Manifest, ModelFile
from ...protocol.signatures import VerifyKey, verify_manifest
from ..config import AgentConfig
from .choice import Choice, on_cpu
from .state import PASSED_NAME, Installed, ReleaseState, StateFile
from .trial import Trial, Verdict, hold

TRIALS_AT_MOST = 3
Change = Callable[[ReleaseState], ReleaseState]
logger = logging.getLogger(__name__)


class ReleaseStore:
    """Releases in a folder; several processes may use it at once.

    Args:
        folder: Made if missing.
        keys: Whose signatures count.
        trial: How files are tried on this device; its model and golden vectors are filled in.
        limit_mib: Larger releases are refused.
        accuracy_floor: A release that answers the device's own test samples worse is refused, whatever its
            manifest says.
    """

    def __init__(
        self,
        folder: Path,
        keys: tuple[VerifyKey, ...],
        *,
        trial: Trial | None = None,
        limit_mib: int = 256,
        accuracy_floor: float = 0.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.keys = keys
        self._trial = trial or Trial(model="")
        self._limit_bytes = limit_mib << 20
        self._accuracy_floor = accuracy_floor
        self.state_file = StateFile(folder)

    @classmethod
    def of_device(cls, config: AgentConfig) -> Self:
        """The releases of the device that `config` describes.

        Raises:
            SignatureError: The key that it names cannot be read.
        """
        keys = (VerifyKey.read(config.release_key),) if config.release_key else ()
        trial = Trial(
            model="",
            runtime=config.runtime,
            num_threads=config.num_threads,
            target=config.target,
            library=config.delegate,
            samples=config.samples,
            sampling=config.sampling,
            samples_at_least=config.accuracy_samples,
        )
        return cls(
            Path(config.folder) / "releases",
            keys,
            trial=trial,
            limit_mib=config.blob_limit_mib,
            accuracy_floor=config.accuracy_floor,
        )

    def state(self) -> ReleaseState:
        """What serves now."""
        return self.state_file.read()

    def path(self, installed: Installed, file: ModelFile | None = None) -> Path:
        """A file of an installed release, by default the one that serves, its digest checked.

        Raises:
            ManifestError: The disk has lost or changed it.
        """
        file = file or installed.model
        path = self._folder / installed.release / file.name
        manifests.check_file(path, file)
        return path

    def check(self, signed: bytes) -> tuple[Manifest, tuple[ModelFile, ...]]:
        """Judges a manifest and names the files of the release that this device needs.

        Raises:
            SignatureError: None of our keys signed it.
            ManifestError: It is no manifest, or has no file for this device.
            RefusedReleaseError: It is not newer than what was here, was refused before, is too large, or
                needs a newer agent.
        """
        manifest = verify_manifest(signed, self.keys)
        state = self.state()
        if manifest.release in state.refused:
            reason = state.refused[manifest.release]
            raise RefusedReleaseError(f"{manifest.release} was refused before: {reason}")
        if not manifests.is_newer(manifest.version, state.highest):
            raise RefusedReleaseError(
                f"Expected a version above {state.highest}, received {manifest.version}: versions only go up."
            )
        if manifests.is_newer(manifest.minimum_agent, __version__):
            raise RefusedReleaseError(
                f"Expected a release for agent {__version__}, received one for {manifest.minimum_agent}.",
                remedy="Update the agent.",
            )
        files = self._choose(manifest).files
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
        with self._locked("install.lock"):
            manifest, files = self.check(signed)
            folder = self._folder / manifest.release
            try:
                for file in files:
                    manifests.check_file(sources[file.name], file)
                    write_durably(folder / file.name, sources[file.name].read_bytes())
                    manifests.check_file(folder / file.name, file)
                write_durably(folder / "manifest.json", signed)
                installed = self._try(manifest, folder)
                write_durably(folder / PASSED_NAME, msgspec.json.encode(installed))
            except HedgerowError as error:
                shutil.rmtree(folder, ignore_errors=True)
                reason = str(error.args[0])
                self._change(lambda state: state.refusing(manifest.release, reason))
                raise
            self._remove_others(self._change(lambda state: state.replaced_by(installed)))
            return installed

    def recheck(self) -> ReleaseState:
        """Measures the release that serves on the samples of today.

        It falls back from one that has become too bad for its floor, if there is one to fall back to.

        Raises:
            HedgerowError: It cannot be measured.
        """
        state = self.state()
        current = state.current
        if current is None:
            return state
        path = self.path(current)
        verdict = hold(_on(self._trial, current.accelerator, path), path.name)

        def measured(state: ReleaseState) -> ReleaseState:
            if state.current is None or state.current.release != current.release:
                return state
            now = msgspec.structs.replace(state.current, accuracy=verdict.accuracy)
            state = msgspec.structs.replace(state, current=now)
            failure = self._below_floor(verdict, now.floor)
            return state.fallen_back(failure) if failure and state.previous is not None else state

        return self._change(measured)

    def begin_trial(self, installed: Installed) -> Installed | None:
        """A program begins to use the release; the one to use instead when too many never got further.

        A file that takes the whole process down leaves nobody to report it, but it leaves its trials.
        """

        def begun(state: ReleaseState) -> ReleaseState:
            current = state.current
            if current is None or current.release != installed.release or current.proven:
                return state
            if current.trials >= TRIALS_AT_MOST:
                return state.fallen_back(f"{TRIALS_AT_MOST} programs ended while they began to use it.")
            current = msgspec.structs.replace(current, trials=current.trials + 1)
            return msgspec.structs.replace(state, current=current)

        now = self._change(begun).current
        return installed if now is not None and now.release == installed.release else now

    def prove(self, installed: Installed) -> None:
        """A program has predicted with the release."""

        def proven(state: ReleaseState) -> ReleaseState:
            if state.current is None or state.current.release != installed.release:
                return state
            return msgspec.structs.replace(state, current=msgspec.structs.replace(state.current, proven=True))

        self._change(proven)

    def use_cpu(self, installed: Installed, reason: str) -> Installed | None:
        """The accelerator has gone: the CPU's file of the release serves from now on, if it has one."""

        def slower(state: ReleaseState) -> ReleaseState:
            if state.current is None or state.current.release != installed.release:
                return state
            return msgspec.structs.replace(state, current=on_cpu(state.current, reason))

        return self._change(slower).current if installed.fallback is not None else None

    def fall_back(self, failed: Installed, reason: str) -> Installed | None:
        """Takes a release out of service, for good; the one before serves again, if there is one."""

        def fallen(state: ReleaseState) -> ReleaseState:
            if state.current is None or state.current.release != failed.release:
                return state
            return state.fallen_back(reason)

        return self._change(fallen).current

    def _choose(self, manifest: Manifest) -> Choice:
        return Choice.of(manifest, target=self._trial.target, library=self._trial.library)

    def _try(self, manifest: Manifest, folder: Path) -> Installed:
        """Tries the accelerator's file first, then the CPU's."""
        choice = self._choose(manifest)
        installed = choice.installed(manifest, target=self._trial.target)
        trial = msgspec.structs.replace(
            self._trial,
            golden=str(folder / choice.golden.name),
            answers=tuple(file.name for file in (choice.accelerated, choice.cpu) if file is not None),
        )
        try:
            return self._passed(installed, trial, folder)
        except RefusedReleaseError as error:
            if installed.fallback is None:
                raise
            logger.warning("%s does not run %s: %s", trial.target, manifest.release, error.args[0])
            return self._passed(on_cpu(installed, str(error.args[0])), trial, folder)

    def _passed(self, installed: Installed, trial: Trial, folder: Path) -> Installed:
        path = folder / installed.model.name
        verdict = hold(_on(trial, installed.accelerator, path), path.name)
        if failure := self._below_floor(verdict, installed.floor):
            raise RefusedReleaseError(failure)
        return msgspec.structs.replace(installed, accuracy=verdict.accuracy)

    def _below_floor(self, verdict: Verdict, floor: float) -> str:
        floor = max(floor, self._accuracy_floor)
        if verdict.accuracy is None or verdict.accuracy >= floor:
            return ""
        return (
            f"Expected an accuracy of at least {floor:g} on this device's own {verdict.examples} test "
            f"samples, received {verdict.accuracy:.3g}."
        )

    def _change(self, change: Change) -> ReleaseState:
        """Changes what `current.json` says, undisturbed by other processes."""
        with self._locked("lock"):
            before = self.state()
            after = change(before)
            if after != before or not self.state_file.path.exists():
                self.state_file.write(after)
            return after

    def _remove_others(self, state: ReleaseState) -> None:
        """Removes every release but the two that may serve; a program that has one mapped keeps its bytes."""
        kept = {one.release for one in (state.current, state.previous) if one is not None}
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        handle = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _on(trial: Trial, accelerator: str, model: Path) -> Trial:
    """The trial of a file on the accelerator, or, where that is empty, on the CPU."""
    library = trial.library if accelerator else ""
    return msgspec.structs.replace(trial, model=str(model), target=accelerator, library=library)
