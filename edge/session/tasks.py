"""Tasks: taken, begun, given up, over."""

from __future__ import annotations

from dataclasses import replace

from ...protocol import messages
from ...protocol.messages import Task
from . import events
from .download import Download
from .state import OVER_AT_MOST, Job
from .turn import Turn

FAILURES_AT_MOST = 16
PROBE_SECONDS = 10.0
REASON_CHARACTERS = 2000


def take(turn: Turn, task: Task) -> None:
    """Queues a task; unfinished ones of earlier rounds give way. One that is here gets its time anew.

    Messages of a Flower app stand side by side: only their coordinator knows which of them are over.
    """
    session = turn.session
    deadline = session.now + task.deadline_seconds
    if session.job and session.job.task.task == task.task:
        turn.change(job=replace(session.job, deadline=deadline))
    elif any(job.task.task == task.task for job in session.queue):
        turn.change(
            queue=tuple(
                replace(job, deadline=deadline) if job.task.task == task.task else job
                for job in session.queue
            )
        )
    else:
        earlier = [job.task for job in session.jobs if job.task.round < task.round]
        outdated = [other.task for other in earlier if other.flower is None or task.flower is None]
        turn.change(queue=(*session.queue, Job(task, deadline)))
        give_up(turn, outdated, f"A task of round {task.round} came.")
        begin(turn)


def begin(turn: Turn) -> None:
    """Begins the next task if none is in hand."""
    if turn.session.job or not turn.session.queue:
        return
    first, *rest = turn.session.queue
    download = Download.of(first.task.program, first.task.weights)
    turn.change(
        job=replace(first, download=download),
        queue=tuple(rest),
        probe_at=turn.session.now + PROBE_SECONDS,
    )
    wanted = (blob.sha256 for job in (first, *rest) for blob in (job.task.program, job.task.weights))
    incoming = turn.session.incoming
    release = (blob.sha256 for blob in incoming.download.blobs) if incoming else ()
    turn.do(events.Prune(frozenset((*wanted, *release))), events.Probe())
    turn.do(*(events.LookUp(blob) for blob in download.blobs))


def give_up(turn: Turn, tasks: list[str], reason: str) -> None:
    """The device cannot do these tasks; the coordinator is told, now or when it asks."""
    for task in tasks:
        drop(turn, task)
    for task in tasks:
        turn.note(f"{task} failed: {reason}")
        turn.say(messages.Failed, task=task, reason=reason[:REASON_CHARACTERS])
        failure = (task, reason[:REASON_CHARACTERS])
        turn.change(failures=(*turn.session.failures, failure)[-FAILURES_AT_MOST:])
    begin(turn)


def end(turn: Turn, task: str) -> None:
    """The coordinator wants no more of this task."""
    drop(turn, task)
    if task not in turn.session.over:
        turn.change(over=(*turn.session.over, task)[-OVER_AT_MOST:])
        turn.do(events.Forget(task))
    turn.change(failures=tuple(failure for failure in turn.session.failures if failure[0] != task))
    begin(turn)


def drop(turn: Turn, task: str) -> None:
    """Takes a task out of wherever it is, and stops what is being done for it."""
    session, job = turn.session, turn.session.job
    if job and job.task.task == task:
        if job.working:
            turn.do(events.StopWork(task))
        if job.download and job.download.asked:
            topics = (session.topics.chunk(piece.sha256, piece.number) for piece in job.download.asked)
            turn.do(events.Unsubscribe(tuple(topics)))
        turn.change(job=None)
    turn.change(
        queue=tuple(job for job in session.queue if job.task.task != task),
        held=tuple(held for held in session.held if held.result.task != task),
    )
