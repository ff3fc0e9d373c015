"""For the user's own program on the device: predict with the current release, and add samples."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DelegateError, HedgerowError, InterpreterError, NoReleaseError
from ..hardware.delegates import delegate_for
from ..hardware.inference import Inference
from .config import AgentConfig
from .release import Installed, ReleaseStore
from .sample_store import SampleStore

CONFIG_NAME = "agent.toml"
# A program that predicts without a pause does not ask the disk at every call.
LOOK_SECONDS = 0.01
logger = logging.getLogger(__name__)


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
        self._serving: Serving | None = None
        self._serving_is_proven = True
        self._seen = (0, 0)
        self._look_again = 0.0
        self._unreadable = ""

    @property
    def release(self) -> str:
        """Name and version of the release that serves; empty without one."""
        current = self._releases.state().current
        return current.release if current is not None else ""

    def predict(self, x: ArrayLike) -> NDArray[np.float32] | tuple[NDArray[np.float32], ...]:
        """The current release's output; a new release serves from the next call on, or 10 ms later.

        Args:
            x: Examples `[n, ...]` in real numbers; the file's quantization is this function's affair.

        Returns:
            float32 `[n, ...]`, or a tuple of them for a model with several outputs.

        Raises:
            NoReleaseError: No release was ever installed, or none is left to fall back to.
            TensorError: `x` has another shape than the model's input.
        """
        examples = x if type(x) is np.ndarray else np.asarray(x)
        with self._lock:
            serving, now = self._serving, monotonic()
            if serving is None or now >= self._look_again:
                self._look_again = now + LOOK_SECONDS
                serving = self._current()
            try:
                outputs = serving.inference.predict(examples)
            except InterpreterError as error:
                outputs = self._replaced(serving, str(error)).inference.predict(examples)
            if not self._serving_is_proven:
                self._prove()
        return outputs[0] if len(outputs) == 1 else outputs

    def add_sample(self, x: ArrayLike | Mapping[str, ArrayLike], label: ArrayLike) -> None:
        """Keeps a sample to train on. It stays on the device; durable on return.

        Args:
            x: An example; for a model with several inputs an array for each by `x0`, `x1` and so on.
            label: What is right for it.

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
            self._leave()
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

    def _current(self) -> Serving:
        """The model that serves; `current.json` is read again only when it may have changed."""
        stamp = self._releases.state_file.stamp()
        if self._serving is None or stamp != self._seen:
            try:
                current = self._releases.state().current
            except OSError as error:
                if self._serving is None:
                    raise NoReleaseError(f"Expected to read what serves, received: {error}.") from error
                # What serves goes on serving, and the next call looks again.
                self._say_unreadable(self._serving.installed.release, str(error))
                return self._serving
            self._unreadable = ""
            self._serving = self._refreshed(current)
            self._seen = stamp
        return self._serving

    def _say_unreadable(self, release: str, error: str) -> None:
        if error != self._unreadable:
            self._unreadable = error
            logger.warning("whether %s still serves cannot be read: %s", release, error)

    def _refreshed(self, current: Installed | None) -> Serving:
        serving = self._serving
        if serving is not None and current is not None and serving.runs(current):
            return serving
        while current is not None:
            trial = self._begin_trial(current)
            if trial is None or trial.release != current.release:
                current = trial
                continue
            try:
                inference = self._load(current)
            except DelegateError as error:
                logger.warning("%s serves on the CPU: %s", current.release, error)
                current = self._releases.use_cpu(current, error.args[0])
                continue
            except HedgerowError as error:
                current = self._releases.fall_back(current, str(error))
                continue
            self._leave()
            self._serving_is_proven = current.proven
            return Serving(current, inference)
        self._leave()
        raise NoReleaseError(f"Expected a release in {self._config.folder}, received none that works.")

    def _load(self, installed: Installed) -> Inference:
        return Inference(
            self._releases.path(installed),
            runtime=self._config.runtime,
            num_threads=self._config.num_threads,
            delegate=delegate_for(installed.accelerator, library=self._config.delegate)
            if installed.accelerator
            else None,
            float_ports=not installed.accelerator,
        )

    def _replaced(self, failed: Serving, reason: str) -> Serving:
        """What serves instead of a release that the runtime loads and then refuses to run."""
        current = self._releases.fall_back(failed.installed, reason)
        self._leave()
        self._serving = self._refreshed(current)
        return self._serving

    def _begin_trial(self, current: Installed) -> Installed | None:
        """On a disk that cannot be written nothing is counted, and what serves goes on serving."""
        try:
            return self._releases.begin_trial(current)
        except OSError as error:
            logger.warning("the first use of %s cannot be noted: %s", current.release, error)
            return current

    def _prove(self) -> None:
        assert self._serving is not None
        self._serving_is_proven = True
        try:
            self._releases.prove(self._serving.installed)
        except OSError as error:
            logger.warning("that %s works cannot be noted: %s", self._serving.installed.release, error)

    def _leave(self) -> None:
        if self._serving is not None:
            self._serving.inference.close()
            self._serving = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A release in memory.

    Args:
        installed: Which one.
        inference: Its file, loaded.
    """

    installed: Installed
    inference: Inference

    def runs(self, other: Installed) -> bool:
        """Whether `other` is this release on this processor."""
        mine = self.installed
        return (mine.release, mine.model, mine.accelerator) == (other.release, other.model, other.accelerator)
