"""Finished tasks on their way to the coordinator."""

from __future__ import annotations

from dataclasses import replace

from ...protocol import messages
from ...protocol.messages import Grant
from . import events
from .state import REPEAT_SECONDS, Held
from .tasks import begin, end, give_up
from .turn import Turn, sender

HELD_AT_MOST = 64


def introduce(turn: Turn) -> None:
    """Says everything that the coordinator may not have heard."""
    turn.announce()
    for task, reason in turn.session.failures:
        turn.say(messages.Failed, task=task, reason=reason)
    for held in turn.session.held:
        say_update(turn, held)


def say_update(turn: Turn, held: Held) -> None:
    """Announces a finished task."""
    result = held.result
    turn.say(
        messages.Update,
        task=result.task,
        round=result.round,
        num_examples=result.num_examples,
        metrics=result.metrics,
        weights=result.weights,
        seconds=result.seconds,
    )
    touch(turn, held)


def repeat_updates(turn: Turn) -> None:
    """Announces again what has been neither settled nor asked for in a while."""
    for held in turn.session.held:
        if held.said_at + REPEAT_SECONDS <= turn.session.now:
            say_update(turn, held)


def touch(turn: Turn, held: Held) -> None:
    """The coordinator knows of this result now."""
    touched = replace(held, said_at=turn.session.now)
    turn.change(
        held=tuple(touched if other.result.task == held.result.task else other for other in turn.session.held)
    )


def granted(turn: Turn, grant: Grant) -> None:
    """Sends the chunks asked for, and no others."""
    held = next((held for held in turn.session.held if held.result.task == grant.task), None)
    blob = held.result.weights if held else None
    if held is None or blob is None or blob.sha256 != grant.sha256:
        turn.note(f"dropped a grant for {grant.task}: no such update here")
        return
    for number in grant.chunks:
        if number < blob.chunks and turn.session.connected:
            turn.change(counter=turn.session.counter + 1)
            header = messages.ChunkHeader(
                task=grant.task, sha256=grant.sha256, chunk=number, **sender(turn.session)
            )
            turn.do(events.SendChunk(header, blob))
    touch(turn, held)


def spooled(turn: Turn, event: events.Spooled | events.SpoolBroken) -> None:
    """The disk has a result for good, or has lost it."""
    if isinstance(event, events.SpoolBroken):
        give_up(turn, [event.task], event.reason)
        return
    held = Held(event.result, turn.session.now)
    if turn.session.job and turn.session.job.task.task == event.result.task:
        turn.change(job=None)
    turn.change(held=(*turn.session.held, held))
    say_update(turn, held)
    for old in turn.session.held[:-HELD_AT_MOST]:
        turn.note(f"{old.result.task} is given up: {HELD_AT_MOST} newer results wait for the coordinator")
        end(turn, old.result.task)
    begin(turn)
