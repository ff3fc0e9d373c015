"""What the agent does about what happens: `step(session, event) -> (session, actions)`.

Pure: no sockets, clocks or files. Time comes in `Tick`; every disk access is an action that another event
answers, so that a duplicate, a reboot, a stale epoch or a cancel in any phase is a row in a test table.

A task goes through: waiting (in `queue`), download, work, spool (in `held`), over (in `over`). MQTT may
deliver twice, late and in another order; the coordinator repeats what it gets no answer to. So every message
of the device is an answer that can be given again, and only `Settled` or `Cancel` takes a result out of the
spool.
"""

from __future__ import annotations

from dataclasses import replace

from ...protocol import messages
from ...protocol.messages import (
    Cancel,
    CoordinatorState,
    DeviceState,
    DownMessage,
    Grant,
    Settled,
    Task,
    kind_of,
)
from . import events
from .delivery import granted, introduce, repeat_updates, say_update, spooled
from .events import Action, Event
from .fetching import ask, ask_again, came, probed, stored, tell_progress
from .releasing import (
    ask_again_for_release,
    ask_for_release,
    ended,
    judged,
    offered,
    release_came,
    release_stored,
)
from .state import Session
from .tasks import PROBE_SECONDS, end, give_up, take
from .turn import Turn
from .twin import hear_own_state, twin_of

SEEN_AT_MOST = 256


def step(session: Session, event: Event) -> tuple[Session, tuple[Action, ...]]:
    """What becomes of the session, and what is to be done, in order."""
    turn = Turn(session)
    match event:
        case events.Tick(now=now):
            turn.change(now=now)
            _pass_time(turn)
        case events.LinkUp() | events.LinkDown() | events.StopAsked():
            _turn_link(turn, event)
        case events.Heard(message=message):
            if isinstance(message, CoordinatorState):
                _hear_state(turn, message)
            elif _is_new(turn, message):
                _hear(turn, message)
        case events.OwnStateHeard(state=state):
            _hear_own_state(turn, state)
        case events.ChunkCame():
            came(turn, event)
            release_came(turn, event)
        case events.LookedUp() | events.ChunkKept() | events.BlobSpoiled():
            stored(turn, event)
            release_stored(turn, event)
        case events.ReleaseOffered(signed=signed):
            offered(turn, signed)
        case events.ReleaseJudged():
            judged(turn, event)
        case events.ReleaseInstalled() | events.ReleaseRefused():
            ended(turn, event)
        case events.ReleaseChanged():
            turn.announce()
        case events.WorkProgressed() | events.WorkFinished() | events.WorkFailed():
            _work(turn, event)
        case events.Spooled() | events.SpoolBroken():
            spooled(turn, event)
        case events.Probed(waits_for=waits_for):
            probed(turn, waits_for)
    return turn.session, tuple(turn.actions)


def _pass_time(turn: Turn) -> None:
    session = turn.session
    expired = [job.task.task for job in session.jobs if job.deadline <= session.now]
    give_up(turn, expired, "The time for it was over.")
    if turn.session.job and turn.session.probe_at <= session.now:
        turn.change(probe_at=session.now + PROBE_SECONDS)
        turn.do(events.Probe())
    if session.connected:
        repeat_updates(turn)
        ask_again(turn)
        ask_again_for_release(turn)


def _turn_link(turn: Turn, event: events.LinkUp | events.LinkDown | events.StopAsked) -> None:
    session = turn.session
    match event:
        case events.LinkUp():
            turn.change(connected=True, confirmed=False, connections=session.connections + 1)
            home: tuple[str, ...] = (
                session.topics.coordinator,
                session.topics.down(session.device, "+"),
                session.topics.state(session.device),
            )
            if session.channel:
                home = (*home, session.topics.release(session.channel))
            turn.do(events.Subscribe(home))
            introduce(turn)
            ask(turn)
            ask_for_release(turn)
        case events.LinkDown():
            turn.change(connected=False)
            if session.job and session.job.download:
                turn.change(job=replace(session.job, download=session.job.download.hung_up()))
            if session.incoming:
                download = session.incoming.download.hung_up()
                turn.change(incoming=replace(session.incoming, download=download))
        case events.StopAsked():
            if session.job and session.job.working:
                turn.do(events.StopWork(session.job.task.task))
            turn.announce(online=False)
            turn.change(job=None, queue=(), connected=False)


def _hear_own_state(turn: Turn, state: DeviceState) -> None:
    before = twin_of(turn.session)
    turn.session = hear_own_state(turn.session, state)
    twin = twin_of(turn.session)
    if twin != before:
        turn.note(f"{twin}: give each device an id of its own")
        turn.announce()
    elif not state.online and state.capabilities.get("instance") == turn.session.instance:
        # Our own will, from a connection before this one: some brokers say it after our birth.
        turn.announce()


def _hear_state(turn: Turn, state: CoordinatorState) -> None:
    """A lower epoch is stale, unless it is what the broker holds now: then the coordinator began anew."""
    session = turn.session
    if not state.online:
        if state.epoch == session.epoch:
            turn.change(confirmed=False)
        return
    if state.epoch > session.epoch or (state.epoch < session.epoch and not session.confirmed):
        _enter_epoch(turn, state.epoch)
    if state.epoch == turn.session.epoch:
        turn.change(confirmed=True)


def _enter_epoch(turn: Turn, epoch: int) -> None:
    turn.note(f"coordinator in epoch {epoch}")
    turn.change(epoch=epoch, seen=())
    introduce(turn)


def _is_new(turn: Turn, message: DownMessage) -> bool:
    if message.epoch > turn.session.epoch:
        _enter_epoch(turn, message.epoch)
    session = turn.session
    if message.epoch < session.epoch or message.counter in session.seen:
        turn.note(f"dropped a stale or repeated {kind_of(message)}, {message.epoch}/{message.counter}")
        return False
    turn.change(seen=(*session.seen, message.counter)[-SEEN_AT_MOST:])
    return True


def _hear(turn: Turn, message: DownMessage) -> None:
    match message:
        case Task():
            _hear_task(turn, message)
        case Grant():
            granted(turn, message)
        case Settled():
            verdict = "stored" if message.accepted else f"refused: {message.reason}"
            turn.note(f"{message.task} settled, {verdict}")
            end(turn, message.task)
            turn.announce()
        case Cancel():
            turn.note(f"{message.task} cancelled: {message.reason}")
            end(turn, message.task)


def _hear_task(turn: Turn, task: Task) -> None:
    session = turn.session
    held = next((held for held in session.held if held.result.task == task.task), None)
    failure = next((failure for failure in session.failures if failure[0] == task.task), None)
    largest = max(task.program.size, task.weights.size)
    if held:
        say_update(turn, held)
    elif failure:
        turn.say(messages.Failed, task=task.task, reason=failure[1])
    elif largest > session.blob_limit_bytes:
        reason = f"Expected blobs of at most {session.blob_limit_bytes} bytes, received one of {largest}."
        give_up(turn, [task.task], reason)
    else:
        turn.say(messages.Accepted, task=task.task)
        if task.task not in session.over:
            take(turn, task)


def _work(turn: Turn, event: events.WorkProgressed | events.WorkFinished | events.WorkFailed) -> None:
    job = turn.session.job
    task = event.result.task if isinstance(event, events.WorkFinished) else event.task
    wanted = job is not None and job.working and job.task.task == task
    match event:
        case events.WorkProgressed(step=done, fraction=fraction) if wanted:
            tell_progress(turn, done, fraction)
        case events.WorkFailed(reason=reason) if wanted:
            turn.change(job=None)
            give_up(turn, [task], reason)
        case events.WorkFinished(result=result) if wanted:
            turn.do(events.Spool(result))
        case events.WorkFinished(result=result) if result.weights:
            turn.do(events.Discard(result.weights))
