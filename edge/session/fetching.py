"""The blobs of the task in hand, until both are on disk and the work begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from ...protocol import messages
from . import events
from .download import Download, Piece
from .state import Job, Session
from .tasks import PROBE_SECONDS, give_up
from .turn import Turn

SPOILED_AT_MOST = 3
MISSING_AT_MOST = 1024
PROGRESS_SECONDS = 0.5


def ask(turn: Turn) -> None:
    """Asks for more chunks, or, with all of them here, begins the work."""
    session, job = turn.session, turn.session.job
    if job is None or job.working or job.download is None or job.download.unknown or session.waits_for:
        return
    if job.download.complete:
        turn.change(job=replace(job, download=None, working=True))
        turn.do(events.Work(job.task))
    elif session.connected:
        download, pieces = job.download.ask(session.now)
        turn.change(job=replace(job, download=download))
        if pieces:
            turn.do(events.Subscribe(chunk_topics(session, pieces)))


def probed(turn: Turn, waits_for: tuple[str, ...]) -> None:
    """The device may work from now on, or no longer: what is in hand is laid down and taken up again."""
    session, job = turn.session, turn.session.job
    turn.change(waits_for=waits_for, probe_at=session.now + PROBE_SECONDS)
    if job is None:
        return
    if waits_for and job.working:
        turn.do(events.StopWork(job.task.task))
        here = replace(Download.of(job.task.program, job.task.weights), unknown=frozenset())
        turn.change(job=replace(job, working=False, download=here))
    elif waits_for and job.download and job.download.asked:
        turn.do(events.Unsubscribe(chunk_topics(session, job.download.asked)))
        turn.change(job=replace(job, download=job.download.hung_up()))
    elif not waits_for:
        ask(turn)
    if waits_for != session.waits_for:
        turn.note(f"waits for {'; '.join(waits_for)}" if waits_for else "may work")
        turn.announce()


def chunk_topics(session: Session, pieces: Iterable[Piece]) -> tuple[str, ...]:
    """The retained messages that are these chunks."""
    return tuple(session.topics.chunk(piece.sha256, piece.number) for piece in pieces)


def came(turn: Turn, event: events.ChunkCame) -> None:
    """A chunk from the broker: to disk with it, if it is one that the task in hand lacks."""
    job = turn.session.job
    if job is None or job.download is None:
        return
    download, piece = job.download, Piece(event.sha256, event.number)
    blob = download.blob(event.sha256)
    if blob is None or piece not in (*download.asked, *download.missing):
        return
    if len(event.data) == blob.chunk_size(event.number):
        turn.do(events.KeepChunk(blob, event.number, event.data))
    elif event.data:
        turn.note(f"dropped chunk {event.number} of {event.sha256[:12]}: {len(event.data)} bytes")


def stored(turn: Turn, event: events.LookedUp | events.ChunkKept | events.BlobSpoiled) -> None:
    """The disk answered."""
    job = turn.session.job
    if job is None:
        return
    download = job.download
    match event:
        case events.LookedUp(sha256=sha256, missing=missing) if download:
            turn.change(job=replace(job, download=download.looked_up(sha256, missing)))
            ask(turn)
        case events.ChunkKept(sha256=sha256, number=number) if download:
            piece = Piece(sha256, number)
            download = download.arrived(piece, turn.session.now)
            turn.change(job=replace(job, download=download))
            turn.do(events.Unsubscribe(chunk_topics(turn.session, (piece,))))
            tell_progress(turn, "download", download.fraction)
            ask(turn)
        case events.BlobSpoiled(sha256=sha256):
            fetch_again(turn, job, sha256)


def fetch_again(turn: Turn, job: Job, sha256: str) -> None:
    """A blob is not what its name says, fresh from the broker or after a while on disk."""
    download = job.download or Download.of(job.task.program, job.task.weights)
    blob = download.blob(sha256)
    if blob is None:
        return
    if job.spoiled + 1 >= SPOILED_AT_MOST:
        give_up(turn, [job.task.task], f"Blob {sha256} had another digest {SPOILED_AT_MOST} times.")
        return
    asked = tuple(piece for piece in download.asked if piece.sha256 == sha256)
    if asked:
        turn.do(events.Unsubscribe(chunk_topics(turn.session, asked)))
    turn.note(f"blob {sha256[:12]} is spoiled; it is fetched again")
    turn.say(messages.Missing, sha256=sha256, chunks=tuple(range(min(blob.chunks, MISSING_AT_MOST))))
    download = download.spoiled(sha256)
    turn.change(job=replace(job, download=download, working=False, spoiled=job.spoiled + 1))
    turn.do(*(events.LookUp(blob) for blob in download.blobs if blob.sha256 in download.unknown))


def ask_again(turn: Turn) -> None:
    """Nothing has come for too long: the broker may have lost the chunks, or our subscriptions."""
    job = turn.session.job
    if job is None or job.download is None or job.download.overdue_at > turn.session.now:
        return
    asked = job.download.asked
    for sha256 in dict.fromkeys(piece.sha256 for piece in asked):
        numbers = tuple(piece.number for piece in asked if piece.sha256 == sha256)
        turn.say(messages.Missing, sha256=sha256, chunks=numbers)
    turn.do(events.Subscribe(chunk_topics(turn.session, asked)))
    turn.change(job=replace(job, download=job.download.impatient(turn.session.now)))


def tell_progress(turn: Turn, step: Literal["download", "train", "evaluate"], fraction: float) -> None:
    """Publishes how far the task in hand is, not too often."""
    session, job = turn.session, turn.session.job
    if job and session.now - job.told >= PROGRESS_SECONDS:
        turn.change(job=replace(job, told=session.now))
        turn.say(messages.Progress, task=job.task.task, step=step, fraction=min(max(fraction, 0.0), 1.0))
