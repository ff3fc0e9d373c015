"""Where the agent takes the device's samples from."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .sample_policy import STORE_NAME, SamplePolicy, Split
from .samples import SampleFolder, Samples

if TYPE_CHECKING:
    from .sample_store import SampleStore


class SampleSource:
    """A folder with a sample store, or, as long as there is none, with `train.npz` and `test.npz`.

    A context manager. The user's program may begin a store while the agent runs.

    Args:
        folder: The samples folder.
        policy: The store's.
    """

    def __init__(self, folder: Path, policy: SamplePolicy) -> None:
        self._folder = folder
        self._policy = policy
        self._store: SampleStore | None = None
        self._lock = threading.Lock()

    def load(self, split: Split) -> Samples:
        """Every sample of one split.

        Raises:
            SamplesError: There are none, or they cannot be used.
        """
        return self._source().load(split)

    def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _source(self) -> SampleStore | SampleFolder:
        with self._lock:
            if self._store is None and (self._folder / STORE_NAME).exists():
                # A device whose samples are two files pays for no database.
                from .sample_store import SampleStore

                self._store = SampleStore(self._folder, policy=self._policy)
            return self._store or SampleFolder(self._folder)
