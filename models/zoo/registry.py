"""The table of the zoo's models."""

from __future__ import annotations

from ... import errors
from .digits_convnet import DIGITS_CONVNET
from .entry import Entry
from .motion_lstm import MOTION_LSTM

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (DIGITS_CONVNET, MOTION_LSTM)}


def get(name: str) -> Entry:
    """The model of this name.

    Raises:
        errors.UnknownModelError: There is none.
    """
    try:
        return ENTRIES[name]
    except KeyError:
        raise errors.UnknownModelError(
            f"Expected one of {', '.join(ENTRIES)} as the model, received {name!r}."
        ) from None


def names() -> tuple[str, ...]:
    """The names of all models, in the order of the table."""
    return tuple(ENTRIES)
