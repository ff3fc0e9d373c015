"""Which files of a release this device needs, and which of them serves."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import msgspec

from ...errors import ManifestError
from ...hardware import targets
from ...hardware.delegates import delegate_for
from ...protocol.manifest import SERVING_KINDS, Kind, Manifest, ModelFile
from .state import Installed

GOLDEN_KIND: Kind = "golden"


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a release that this device needs.

    Args:
        cpu: What its CPU runs, if the release has it.
        accelerated: What its accelerator runs, if it has one and the release has it.
        golden: The golden vectors.
    """

    cpu: ModelFile | None
    accelerated: ModelFile | None
    golden: ModelFile

    @classmethod
    def of(cls, manifest: Manifest, *, target: str, library: str) -> Choice:
        """What a device takes.

        Args:
            manifest: Of the release.
            target: The device's accelerator; empty without one.
            library: Its delegate, where the user chose one.

        Raises:
            ManifestError: The release has no file for this device, or no golden vectors.
        """
        cpu = _first(manifest)
        accelerated = None
        if target:
            with contextlib.suppress(ManifestError):
                accelerated = manifest.file("compiled", target=target)
            if accelerated is None and delegate_for(target, library=library) is not None:
                accelerated = cpu
        if cpu is None and accelerated is None:
            held = sorted({file.kind for file in manifest.files})
            expected = ", ".join(SERVING_KINDS)
            raise ManifestError(f"Expected one of the kinds {expected}, received only {held}.")
        return cls(cpu, accelerated, manifest.file(GOLDEN_KIND))

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Each file once, the one that should serve first."""
        chosen = (self.accelerated, self.cpu, self.golden)
        return tuple({file.name: file for file in chosen if file is not None}.values())

    def installed(self, manifest: Manifest, *, target: str) -> Installed:
        """The release as it should serve, before it was tried."""
        accelerated = self.accelerated is not None
        return Installed(
            release=manifest.release,
            version=manifest.version,
            model=self.files[0],
            fallback=self.cpu if accelerated else None,
            accelerator=target if accelerated else "",
            cpu_because="" if accelerated else _no_delegate(target),
            floor=manifest.accuracy_floor,
        )


def on_cpu(installed: Installed, reason: str) -> Installed:
    """The release as its CPU file serves it.

    Args:
        installed: It has a fallback.
        reason: Why the accelerator does not run it.
    """
    model = installed.fallback or installed.model
    return msgspec.structs.replace(
        installed, model=model, fallback=None, accelerator="", cpu_because=reason[:500]
    )


def _first(manifest: Manifest) -> ModelFile | None:
    for kind in SERVING_KINDS:
        with contextlib.suppress(ManifestError):
            return manifest.file(kind)
    return None


def _no_delegate(target: str) -> str:
    """Why a target with an accelerator runs on the CPU when we know of no delegate for it."""
    if not target or targets.load(target).accelerator is None:
        return ""
    return f"No delegate is known for {target}: name one as `delegate` in agent.toml."
