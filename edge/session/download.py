"""Which chunks of a task's blobs to ask the broker for next. Pure: no sockets, clocks or files.

The broker is the cache: each chunk is a retained message on a topic of its own. A few topics at a time, so
that commands to the device never queue behind a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ...protocol.messages import BlobReference

IN_FLIGHT = 4
PATIENCE_SECONDS = (5.0, 60.0)


class Piece(NamedTuple):
    """One chunk of one blob."""

    sha256: str
    number: int


@dataclass(frozen=True, slots=True)
class Download:
    """The blobs of one task on their way in.

    Args:
        blobs: All of them, each once.
        unknown: Digests of those whose state on disk is not known yet.
        missing: Chunks to ask for, in order, without those asked for.
        asked: Chunks asked for that have not come.
        quiet_since: When the last chunk came, or was asked for.
        patience: Seconds of silence before the chunks are asked for again; doubles, so that a slow connection
            is not filled with repetitions.
    """

    blobs: tuple[BlobReference, ...]
    unknown: frozenset[str]
    missing: tuple[Piece, ...] = ()
    asked: tuple[Piece, ...] = ()
    quiet_since: float = 0.0
    patience: float = PATIENCE_SECONDS[0]

    @classmethod
    def of(cls, *blobs: BlobReference) -> Download:
        """A download of `blobs`, nothing of which has been looked up."""
        unique = {blob.sha256: blob for blob in blobs}
        return cls(blobs=tuple(unique.values()), unknown=frozenset(unique))

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return not (self.unknown or self.missing or self.asked)

    @property
    def fraction(self) -> float:
        """Chunks that are here, of all, 0 to 1."""
        total = sum(blob.chunks for blob in self.blobs)
        lacking = len(self.missing) + len(self.asked)
        return 0.0 if self.unknown else 1.0 - lacking / total

    @property
    def overdue_at(self) -> float:
        """When silence has lasted too long; infinity while nothing is asked for."""
        return self.quiet_since + self.patience if self.asked else float("inf")

    def blob(self, sha256: str) -> BlobReference | None:
        """The blob of that digest, if it is one of these."""
        return next((blob for blob in self.blobs if blob.sha256 == sha256), None)

    def looked_up(self, sha256: str, numbers: tuple[int, ...]) -> Download:
        """The disk lacks the chunks `numbers` of a blob."""
        if sha256 not in self.unknown:
            return self
        pieces = (Piece(sha256, number) for number in numbers)
        return replace(self, unknown=self.unknown - {sha256}, missing=(*self.missing, *pieces))

    def ask(self, now: float) -> tuple[Download, tuple[Piece, ...]]:
        """Fills the places in flight; the pieces to subscribe to."""
        free = IN_FLIGHT - len(self.asked)
        pieces = self.missing[:free]
        if not pieces:
            return self, ()
        quiet_since = self.quiet_since if self.asked else now
        return replace(
            self, missing=self.missing[free:], asked=(*self.asked, *pieces), quiet_since=quiet_since
        ), pieces

    def arrived(self, piece: Piece, now: float) -> Download:
        """A chunk is on disk."""
        return replace(
            self,
            missing=tuple(other for other in self.missing if other != piece),
            asked=tuple(other for other in self.asked if other != piece),
            quiet_since=now,
            patience=PATIENCE_SECONDS[0],
        )

    def impatient(self, now: float) -> Download:
        """The chunks in flight are asked for again."""
        return replace(self, quiet_since=now, patience=min(2 * self.patience, PATIENCE_SECONDS[1]))

    def hung_up(self) -> Download:
        """The connection went, and with it what was asked for."""
        return replace(self, missing=(*self.asked, *self.missing), asked=(), patience=PATIENCE_SECONDS[0])

    def spoiled(self, sha256: str) -> Download:
        """A blob has to be looked up and fetched anew."""
        return replace(
            self,
            unknown=self.unknown | {sha256},
            missing=tuple(piece for piece in self.missing if piece.sha256 != sha256),
            asked=tuple(piece for piece in self.asked if piece.sha256 != sha256),
        )
