"""What a Flower app's answer must be to count. One that is not is refused alone, and the round goes on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from ..errors import TensorsError, UpdateError
from ..protocol.messages import Update
from ..protocol.tensors import Weights
from . import flower_records


@dataclass(frozen=True, slots=True)
class FlowerAdmission:
    """The rules for answers: records of any kind, for a strategy asks what it likes.

    Args:
        bytes_at_most: No answer is larger.
        finite: Whether arrays must be free of NaN and infinity, as those of a training must.
    """

    bytes_at_most: int
    finite: bool

    @property
    def bytes_held(self) -> int:
        """An answer stays on disk."""
        return 1

    def check_announced(self, update: Update) -> None:
        """Passes if the announcement is that of an answer, before a byte of it is asked for.

        Raises:
            UpdateError: It is not.
        """
        blob = update.weights
        if blob is None or blob.codec != "flower":
            codec = "no blob" if blob is None else f"codec {blob.codec!r}"
            raise UpdateError(f"Expected the records of a Flower message, received {codec}.")
        if blob.size > self.bytes_at_most:
            raise UpdateError(f"Expected at most {self.bytes_at_most} bytes, received {blob.size}.")

    def weights(self, update: Update, data: bytes) -> Weights:
        """Passes if the answer can be read; it stays on disk, so there is nothing to hand on.

        Raises:
            TensorsError: It cannot, or has numbers that would spoil the model.
        """
        records = flower_records.decode(data)
        spoilt = list(flower_records.spoilt_arrays(records)) if self.finite else []
        if spoilt:
            raise TensorsError(f"Expected finite numbers, received NaN or infinity in {spoilt[:8]}.")
        impossible = [count for count in flower_records.counts(records) if not 0 <= count < math.inf]
        if impossible:
            raise TensorsError(f"Expected a number of examples of at least 0, received {impossible[0]}.")
        return {}

    def metrics_of(self, update: Update) -> dict[str, float]:
        """What people who watch may see."""
        return dict(update.metrics)


def outliers(replies: Sequence[Message]) -> dict[int, str]:
    """The replies that are unlike most others, by their place, and why.

    A strategy averages what all replies share; one that differs would end the whole run.
    """
    seen: list[Any] = [
        flower_records.signature(reply.content) if reply.has_content() else None for reply in replies
    ]
    usual = Counter(one for one in seen if one is not None).most_common(1)
    return {
        place: f"Expected records like those of most nodes, {usual[0][0]}, received {one}."
        for place, one in enumerate(seen)
        if one is not None and one != usual[0][0]
    }
