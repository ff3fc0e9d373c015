"""For the user's own program on the device: predict with the current release, and add samples."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import HedgerowError, NoReleaseError
from ..hardware.inference import Inference
from .config import AgentConfig
from .release import Installed, ReleaseStore
from .sample_store import SampleStore

CONFIG_NAME = "agent.toml"


class Device:
    """This device, as its programs see it. A context manager; threads may share one.

    Args:
        folder: The folder with the agent's `agent.toml`.

    Raises:
        AgentConfigError: There is no configuration in it that can be used.
    """

    def __init__(self, folder: str | Path) -> None:
        self._config = AgentConfig.load(Path(folder) / CONFIG_NAME)
        self._releases = ReleaseStore.of_device(self._config)
        self._lock = threading.Lock()
        self._samples: SampleStore | None = None
        self._inference: Inference | None = None
        self._serving = ""
        self._unproven: Installed | None = None
        self._seen: tuple[int, int] | None = None

    @property
    def release(self) -> str:
        """Name and version of the release that serves; empty without one."""
        current = self._releases.state().current
        return current.release if current is not None else ""

    def predict(self, x: ArrayLike) -> NDArray[np.float32] | tuple[NDArray[np.float32], ...]:
        """The current release's output; a new release serves from the next call on.

        Args:
            x: Examples `[n, ...]` in real numbers; the file's quantization is this function's affair.

        Returns:
            float32 `[n, ...]`, or a tuple of them for a model with several outputs.

        Raises:
            NoReleaseError: No release was ever installed, or none is left to fall back to.
            TensorError: `x` has another shape than the model's input.
        """
        examples = np.asarray(x)
        with self._lock:
            inference = self._current()
            outputs = inference.predict(examples)
            if self._unproven is not None:
                self._releases.prove(self._unproven)
                self._unproven = None
        return outputs[0] if len(outputs) == 1 else outputs

    def add_sample(self, x: ArrayLike, label: ArrayLike) -> None:
        """Keeps a sample to train on. It stays on the device; durable on return.

        Raises:
            SamplesError: It does not fit the samples before it, or the disk failed.
        """
        self._store().add(x, label)

    def forget_samples(self) -> None:
        """Erases every sample of this device."""
        self._store().forget()

    def close(self) -> None:
        """Frees the model and closes the samples."""
        with self._lock:
            if self._inference is not None:
                self._inference.close()
                self._inference = None
            if self._samples is not None:
                self._samples.close()
                self._samples = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _store(self) -> SampleStore:
        with self._lock:
            if self._samples is None:
                self._samples = SampleStore(Path(self._config.samples), policy=self._config.sampling)
            return self._samples

    def _current(self) -> Inference:
        """The model that serves; `current.json` is read again only when it is another file than last time."""
        try:
            found = self._releases.state_path.stat()
        except FileNotFoundError as error:
            raise NoReleaseError(f"Expected a release in {self._config.folder}, received none.") from error
        version = (found.st_ino, found.st_mtime_ns)
        if self._inference is None or version != self._seen:
            self._inference = self._refreshed(self._releases.state().current)
            self._seen = version
        return self._inference

    def _refreshed(self, current: Installed | None) -> Inference:
        if self._inference is not None and current is not None and current.release == self._serving:
            return self._inference
        while current is not None:
            trial = self._releases.begin_trial(current)
            if trial is None or trial.release != current.release:
                current = trial
                continue
            try:
                fresh = Inference(
                    self._releases.path(current),
                    runtime=self._config.runtime,
                    num_threads=self._config.num_threads,
                )
            except HedgerowError as error:
                current = self._releases.fall_back(current, str(error))
                continue
            if self._inference is not None:
                self._inference.close()
            self._serving, self._unproven = current.release, None if current.proven else current
            return fresh
        raise NoReleaseError(f"Expected a release in {self._config.folder}, none is left that works.")
