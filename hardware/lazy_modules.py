"""Parts of other packages that are imported with them and hardly ever used."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


def load_when_used(names: Iterable[str]) -> None:
    """Has an import of these modules, from now on, run them only when an attribute of theirs is asked for."""
    sys.meta_path.insert(0, _Finder(frozenset(names)))


class _Finder:
    """Finds what the interpreter's own finder finds, with a loader that waits."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The `MetaPathFinder` interface; None leaves a module to the finders that come after."""
        spec = PathFinder.find_spec(name, path, target) if name in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
