"""A release on its way to the device, beside the tasks: judged, fetched, installed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...protocol import messages
from . import events
from .download import Download, Piece
from .state import Incoming
from .turn import Turn

SPOILED_AT_MOST = 3


def offered(turn: Turn, signed: bytes) -> None:
    """The channel names a release; the same one again, on every reconnect, is no news."""
    incoming = turn.session.incoming
    if incoming is None or incoming.signed != signed:
        turn.do(events.JudgeRelease(signed))


def judged(turn: Turn, event: events.ReleaseJudged) -> None:
    """The release may run here, and these are its files."""
    abandon(turn)
    download = Download.of(*event.blobs)
    turn.change(incoming=Incoming(event.signed, download))
    turn.do(*(events.LookUp(blob) for blob in download.blobs))


def ended(turn: Turn, event: events.ReleaseInstalled | events.ReleaseRefused) -> None:
    """The release serves, or never will."""
    if isinstance(event, events.ReleaseInstalled):
        turn.note(f"release {event.release} serves")
    else:
        turn.note(f"release refused: {event.reason}")
    incoming = turn.session.incoming
    if incoming is not None and incoming.signed == event.signed:
        abandon(turn)
    turn.announce()


def abandon(turn: Turn) -> None:
    """Stops fetching."""
    incoming = turn.session.incoming
    if incoming is not None:
        _unsubscribe(turn, incoming.download.asked)
        turn.change(incoming=None)


def release_came(turn: Turn, event: events.ChunkCame) -> None:
    """A chunk from the broker: to disk with it, if the release lacks it."""
    incoming = turn.session.incoming
    if incoming is None:
        return
    download, piece = incoming.download, Piece(event.sha256, event.number)
    blob = download.blob(event.sha256)
    wanted = blob is not None and piece in (*download.asked, *download.missing)
    if blob is not None and wanted and len(event.data) == blob.chunk_size(event.number):
        turn.do(events.KeepChunk(blob, event.number, event.data))


def release_stored(turn: Turn, event: events.LookedUp | events.ChunkKept | events.BlobSpoiled) -> None:
    """The disk answered."""
    incoming = turn.session.incoming
    if incoming is None or incoming.download.blob(event.sha256) is None:
        return
    download = incoming.download
    match event:
        case events.LookedUp(sha256=sha256, missing=missing):
            turn.change(incoming=replace(incoming, download=download.looked_up(sha256, missing)))
        case events.ChunkKept(sha256=sha256, number=number):
            piece = Piece(sha256, number)
            if piece in download.asked:
                _unsubscribe(turn, (piece,))
            turn.change(incoming=replace(incoming, download=download.arrived(piece, turn.session.now)))
        case events.BlobSpoiled(sha256=sha256):
            if incoming.spoiled + 1 >= SPOILED_AT_MOST:
                turn.note(f"release given up: blob {sha256} had another digest {SPOILED_AT_MOST} times")
                abandon(turn)
                return
            _unsubscribe(turn, [piece for piece in download.asked if piece.sha256 == sha256])
            fresh = replace(incoming, download=download.spoiled(sha256), spoiled=incoming.spoiled + 1)
            turn.change(incoming=fresh)
            turn.do(*(events.LookUp(blob) for blob in download.blobs if blob.sha256 == sha256))
    ask_for_release(turn)


def ask_for_release(turn: Turn) -> None:
    """Asks for more chunks, or, with all of them here, has the release installed."""
    session, incoming = turn.session, turn.session.incoming
    if incoming is None or incoming.installing or incoming.download.unknown:
        return
    if incoming.download.complete:
        turn.change(incoming=replace(incoming, installing=True))
        turn.do(events.InstallRelease(incoming.signed))
    elif session.connected:
        download, pieces = incoming.download.ask(session.now)
        turn.change(incoming=replace(incoming, download=download))
        if pieces:
            turn.do(events.Subscribe(_topics(turn, pieces)))


def ask_again_for_release(turn: Turn) -> None:
    """Nothing has come for too long."""
    incoming = turn.session.incoming
    if incoming is None or incoming.download.overdue_at > turn.session.now:
        return
    asked = incoming.download.asked
    for sha256 in dict.fromkeys(piece.sha256 for piece in asked):
        numbers = tuple(piece.number for piece in asked if piece.sha256 == sha256)
        turn.say(messages.Missing, sha256=sha256, chunks=numbers)
    turn.do(events.Subscribe(_topics(turn, asked)))
    turn.change(incoming=replace(incoming, download=incoming.download.impatient(turn.session.now)))


def _unsubscribe(turn: Turn, pieces: Iterable[Piece]) -> None:
    if topics := _topics(turn, pieces):
        turn.do(events.Unsubscribe(topics))


def _topics(turn: Turn, pieces: Iterable[Piece]) -> tuple[str, ...]:
    return tuple(turn.session.topics.chunk(piece.sha256, piece.number) for piece in pieces)
