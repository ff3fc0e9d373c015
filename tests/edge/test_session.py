"""The session: what the agent decides, row by row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.edge.result import Result
from hedgerow.edge.session import Session, events, step
from hedgerow.edge.session.events import Action, Event
from hedgerow.protocol.messages import (
    Accepted,
    BlobReference,
    Cancel,
    CoordinatorState,
    Failed,
    Grant,
    Missing,
    Progress,
    Settled,
    Task,
    Update,
)
from hedgerow.protocol.topics import Topics

KIB64 = 65536
PROGRAM = BlobReference(sha256="a" * 64, size=2 * KIB64 + 1)
WEIGHTS = BlobReference(sha256="b" * 64, size=3 * KIB64, codec="f32")
TRAINED = BlobReference(sha256="c" * 64, size=2 * KIB64 + 5, codec="f32")
TOPICS = Topics("farm")
COUNTERS = iter(range(1, 1 << 30))


def task(name: str = "t1", *, round: int = 1, epoch: int = 7, **fields: Any) -> Task:
    return Task(
        device="d1", epoch=epoch, counter=next(COUNTERS), task=name, round=round, phase="train",
        program=fields.pop("program", PROGRAM), weights=WEIGHTS, **fields,
    )  # fmt: skip


def down(kind: type[Any], name: str = "t1", *, epoch: int = 7, **fields: Any) -> Any:
    return kind(device="d1", epoch=epoch, counter=next(COUNTERS), task=name, **fields)


def result(name: str = "t1", weights: BlobReference | None = TRAINED) -> Result:
    return Result(
        task=name, round=1, num_examples=9, metrics={"train_loss": 0.5}, weights=weights, seconds=1.0
    )


def run(session: Session, *happenings: Event) -> tuple[Session, list[Action]]:
    done: list[Action] = []
    for event in happenings:
        session, actions = step(session, event)
        done += actions
    return session, done


def said(actions: Iterable[Action]) -> list[Any]:
    return [action.message for action in actions if isinstance(action, events.Publish)]


def kinds(actions: Iterable[Action], *classes: type[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, classes)]


def overdue_at(session: Session) -> float:
    assert session.job is not None
    assert session.job.download is not None
    assert session.wake_at <= session.job.download.overdue_at
    return session.job.download.overdue_at


@pytest.fixture
def fresh() -> Session:
    """Connected, the coordinator in epoch 7."""
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3)
    online = CoordinatorState(online=True, epoch=7)
    return run(session, events.Tick(100.0), events.LinkUp(), events.Heard(online))[0]


@pytest.fixture
def downloading(fresh: Session) -> Session:
    """Task t1 in hand, its program on disk, two of three chunks of its weights missing."""
    looked_up = (events.LookedUp(PROGRAM.sha256, ()), events.LookedUp(WEIGHTS.sha256, (1, 2)))
    return run(fresh, events.Heard(task()), *looked_up)[0]


@pytest.fixture
def working(downloading: Session) -> Session:
    kept = [events.ChunkKept(WEIGHTS.sha256, number) for number in (1, 2)]
    return run(downloading, *kept)[0]


@pytest.fixture
def holding(working: Session) -> Session:
    """Task t1 finished and in the spool."""
    return run(working, events.WorkFinished(result()), events.Spooled(result()))[0]


def test_a_connection_begins_with_subscriptions_and_a_birth() -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3)
    session, actions = run(session, events.LinkUp())
    assert actions == [
        events.Subscribe(
            (
                "hedgerow/v1/farm/all/coordinator",
                "hedgerow/v1/farm/d/d1/down/+",
                "hedgerow/v1/farm/d/d1/state",
            )
        ),
        events.Announce(online=True, counter=1, epoch=0, tasks=()),
    ]


def test_nothing_is_said_before_the_first_connection() -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3, results=[result()])
    session, actions = run(session, events.Tick(1000.0), events.LinkDown(), events.Tick(2000.0))
    assert not said(actions)
    assert session.wake_at == float("inf")


def test_a_task_is_accepted_and_its_blobs_are_looked_up(fresh: Session) -> None:
    session, actions = run(fresh, events.Heard(task()))
    assert [type(message) for message in said(actions)] == [Accepted]
    assert kinds(actions, events.Prune, events.LookUp) == [
        events.Prune(frozenset({PROGRAM.sha256, WEIGHTS.sha256})),
        events.LookUp(PROGRAM),
        events.LookUp(WEIGHTS),
    ]
    assert session.tasks == ("t1",)


def test_four_chunks_at_a_time_and_one_more_for_each_that_came(fresh: Session) -> None:
    session, actions = run(
        fresh,
        events.Heard(task()),
        events.LookedUp(PROGRAM.sha256, (0, 1, 2)),
        events.LookedUp(WEIGHTS.sha256, (0, 1, 2)),
    )
    chunk = TOPICS.chunk
    assert kinds(actions, events.Subscribe) == [
        events.Subscribe((*(chunk("a" * 64, n) for n in range(3)), chunk("b" * 64, 0)))
    ]
    data = bytes(KIB64)
    session, actions = run(session, events.ChunkCame("a" * 64, 1, data))
    assert actions == [events.KeepChunk(PROGRAM, 1, data)]
    session, actions = run(session, events.ChunkKept("a" * 64, 1))
    assert kinds(actions, events.Unsubscribe, events.Subscribe) == [
        events.Unsubscribe((chunk("a" * 64, 1),)),
        events.Subscribe((chunk("b" * 64, 1),)),
    ]


def test_the_work_begins_when_both_blobs_are_here(downloading: Session) -> None:
    session, actions = run(downloading, events.ChunkKept("b" * 64, 2))
    assert not kinds(actions, events.Work)
    session, actions = run(session, events.ChunkKept("b" * 64, 1))
    (work,) = kinds(actions, events.Work)
    assert work.task.task == "t1"


def test_work_that_needs_no_download_begins_while_disconnected(fresh: Session) -> None:
    _session, actions = run(
        fresh,
        events.Heard(task()),
        events.LinkDown(),
        events.LookedUp(PROGRAM.sha256, ()),
        events.LookedUp(WEIGHTS.sha256, ()),
    )
    assert kinds(actions, events.Work)


@pytest.mark.parametrize(
    ("number", "data"),
    [(0, bytes(KIB64)), (1, b""), (1, bytes(KIB64 - 1)), (9, bytes(KIB64))],
    ids=["not asked for", "cleared at the broker", "short", "beyond the end"],
)
def test_a_chunk_that_does_not_fit_is_not_kept(downloading: Session, number: int, data: bytes) -> None:
    session, actions = run(downloading, events.ChunkCame(WEIGHTS.sha256, number, data))
    assert not kinds(actions, events.KeepChunk)
    assert session == downloading


def test_chunks_that_do_not_come_are_reported_and_asked_for_again_ever_less_often(
    downloading: Session,
) -> None:
    assert overdue_at(downloading) == 105.0
    session, actions = run(downloading, events.Tick(104.9))
    assert not actions
    session, actions = run(session, events.Tick(105.0))
    (missing,) = said(actions)
    assert (type(missing), missing.sha256, missing.chunks) == (Missing, WEIGHTS.sha256, (1, 2))
    assert kinds(actions, events.Subscribe) == [
        events.Subscribe((TOPICS.chunk("b" * 64, 1), TOPICS.chunk("b" * 64, 2)))
    ]
    assert overdue_at(session) == 115.0
    session, _ = run(session, events.Tick(114.0), events.ChunkKept(WEIGHTS.sha256, 1))
    assert overdue_at(session) == 119.0


def test_a_reconnect_subscribes_again_to_what_is_missing(downloading: Session) -> None:
    _session, actions = run(downloading, events.LinkDown(), events.Tick(200.0), events.LinkUp())
    assert kinds(actions, events.Subscribe)[-1] == events.Subscribe(
        (TOPICS.chunk("b" * 64, 1), TOPICS.chunk("b" * 64, 2))
    )
    assert not kinds(said(actions), Missing)


def test_a_spoiled_blob_is_fetched_again_twice_and_then_given_up(downloading: Session) -> None:
    session = downloading
    for _ in range(2):
        session, actions = run(session, events.BlobSpoiled(WEIGHTS.sha256))
        assert events.LookUp(WEIGHTS) in actions
        assert kinds(said(actions), Missing)[0].chunks == (0, 1, 2)
        session, _ = run(session, events.LookedUp(WEIGHTS.sha256, (0, 1, 2)))
    session, actions = run(session, events.BlobSpoiled(WEIGHTS.sha256))
    assert "digest" in kinds(said(actions), Failed)[0].reason
    assert session.job is None


def test_a_program_that_the_disk_lost_before_the_work_is_fetched_again(working: Session) -> None:
    session, actions = run(working, events.BlobSpoiled(PROGRAM.sha256))
    assert kinds(actions, events.LookUp) == [events.LookUp(PROGRAM), events.LookUp(WEIGHTS)]
    looked_up = (events.LookedUp(PROGRAM.sha256, ()), events.LookedUp(WEIGHTS.sha256, ()))
    session, actions = run(session, *looked_up)
    assert kinds(actions, events.Work)


def test_progress_is_said_twice_a_second(working: Session) -> None:
    happenings: list[Event] = []
    for tick in range(100):
        happenings += [events.Tick(200 + tick / 50), events.WorkProgressed("t1", "train", tick / 100)]
    _, actions = run(working, *happenings)
    assert 4 <= len(kinds(said(actions), Progress)) <= 5


def test_a_result_is_on_disk_before_it_is_announced(working: Session) -> None:
    session, actions = run(working, events.WorkFinished(result()))
    assert actions == [events.Spool(result())]
    session, actions = run(session, events.Spooled(result()))
    (update,) = said(actions)
    assert (update.task, update.num_examples, update.weights) == ("t1", 9, TRAINED)
    assert session.tasks == ("t1",)


def test_an_update_is_said_again_after_15_seconds_unless_asked_for(holding: Session) -> None:
    assert holding.wake_at == 115.0
    session, actions = run(holding, events.Tick(115.0))
    assert [type(message) for message in said(actions)] == [Update]
    grant = events.Heard(down(Grant, sha256=TRAINED.sha256, chunks=(0,)))
    session, actions = run(session, events.Tick(129.0), grant, events.Tick(140.0))
    assert not kinds(said(actions), Update)
    session, actions = run(session, events.Tick(144.0))
    assert kinds(said(actions), Update)


@pytest.mark.parametrize(
    "event",
    [
        events.LinkUp(),
        events.Heard(CoordinatorState(online=True, epoch=8)),
        events.Heard(down(Cancel, "x", epoch=8)),
    ],
    ids=["reconnect", "new epoch", "message of a new epoch"],
)
def test_everything_unsettled_is_said_again(holding: Session, event: Event) -> None:
    _, actions = run(holding, event)
    assert kinds(actions, events.Announce)[0].tasks == ("t1",)
    assert [type(message) for message in said(actions)] == [Update]


def test_a_grant_is_answered_with_its_chunks_and_nothing_else(holding: Session) -> None:
    grant = down(Grant, sha256=TRAINED.sha256, chunks=(2, 0, 3))
    _session, actions = run(holding, events.Heard(grant))
    sent = kinds(actions, events.SendChunk)
    assert [action.header.chunk for action in sent] == [2, 0]
    assert len({action.header.counter for action in sent}) == 2
    assert len(actions) == 2


@pytest.mark.parametrize(
    ("name", "sha256"), [("t2", TRAINED.sha256), ("t1", "d" * 64)], ids=["unknown task", "other blob"]
)
def test_a_grant_for_something_else_is_dropped(holding: Session, name: str, sha256: str) -> None:
    _, actions = run(holding, events.Heard(down(Grant, name, sha256=sha256, chunks=(0,))))
    assert not kinds(actions, events.SendChunk)


@pytest.mark.parametrize("accepted", [True, False])
def test_settled_clears_the_spool_for_good(holding: Session, accepted: bool) -> None:
    session, actions = run(holding, events.Heard(down(Settled, accepted=accepted)))
    assert events.Forget("t1") in actions
    assert kinds(actions, events.Announce)[0].tasks == ()
    assert (session.held, session.over) == ((), ("t1",))
    session, actions = run(session, events.Heard(task()))
    assert [type(message) for message in said(actions)] == [Accepted]
    assert session.job is None


def test_a_repeated_task_gets_the_answer_that_fits_its_phase(
    fresh: Session, downloading: Session, working: Session, holding: Session
) -> None:
    failed, _ = run(working, events.WorkFailed("t1", "no samples"))
    for session, answer in (
        (fresh, Accepted),
        (downloading, Accepted),
        (working, Accepted),
        (holding, Update),
        (failed, Failed),
    ):
        after, actions = run(session, events.Heard(task()))
        assert [type(message) for message in said(actions)] == [answer]
        if session is not fresh:
            assert not kinds(actions, events.Work, events.LookUp)
            assert after.tasks == session.tasks


def test_a_message_delivered_twice_counts_once(fresh: Session) -> None:
    message = events.Heard(task())
    _, actions = run(fresh, message, message)
    assert len(said(actions)) == 1


def test_a_coordinator_counts_anew_in_each_epoch(fresh: Session) -> None:
    first = task()
    again = msgspec.structs.replace(first, epoch=8, task="t2")
    session, _ = run(fresh, events.Heard(first), events.Heard(again))
    assert session.tasks == ("t1", "t2")


def test_messages_of_an_earlier_epoch_are_dropped(holding: Session) -> None:
    settled = events.Heard(down(Settled, accepted=True, epoch=6))
    session, actions = run(holding, settled)
    assert session == holding
    assert not kinds(actions, events.Forget)


def test_a_coordinator_that_began_anew_is_believed_after_it_was_offline(fresh: Session) -> None:
    lower = events.Heard(CoordinatorState(online=True, epoch=1))
    offline = events.Heard(CoordinatorState(online=False, epoch=7))
    assert run(fresh, lower)[0].epoch == 7
    assert run(fresh, offline, lower)[0].epoch == 1
    assert run(fresh, events.LinkDown(), events.LinkUp(), lower)[0].epoch == 1
    assert run(fresh, events.Heard(CoordinatorState(online=False, epoch=6)), lower)[0].epoch == 7


def test_an_offline_coordinator_sets_no_epoch() -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3)
    old = CoordinatorState(online=False, epoch=9)
    session, _ = run(session, events.LinkUp(), events.Heard(old), events.Heard(task(epoch=2)))
    assert (session.epoch, session.tasks) == (2, ("t1",))


def test_cancel_while_waiting(working: Session) -> None:
    session, _ = run(working, events.Heard(task("t2")), events.Heard(down(Cancel, "t2")))
    assert session.tasks == ("t1",)


def test_cancel_while_downloading(downloading: Session) -> None:
    session, actions = run(downloading, events.Heard(down(Cancel)))
    assert kinds(actions, events.Unsubscribe)[0].topics == (
        TOPICS.chunk("b" * 64, 1),
        TOPICS.chunk("b" * 64, 2),
    )
    assert session.tasks == ()
    session, actions = run(session, events.ChunkCame(WEIGHTS.sha256, 1, bytes(KIB64)))
    assert not actions


def test_cancel_while_working(working: Session) -> None:
    session, actions = run(working, events.Heard(down(Cancel)))
    assert events.StopWork("t1") in actions
    late = events.WorkFinished(result())
    session, actions = run(session, events.WorkProgressed("t1", "train", 1.0), late)
    assert actions == [events.Discard(TRAINED)]
    assert session.tasks == ()


def test_cancel_of_a_spooled_result(holding: Session) -> None:
    session, actions = run(holding, events.Heard(down(Cancel)))
    assert events.Forget("t1") in actions
    session, actions = run(session, events.Tick(500.0))
    assert not said(actions)


def test_a_cancel_that_overtakes_its_task(fresh: Session) -> None:
    session, actions = run(fresh, events.Heard(down(Cancel)), events.Heard(task()))
    assert session.tasks == ()
    assert not kinds(actions, events.LookUp)


def test_tasks_of_one_round_wait_in_order(working: Session) -> None:
    session, _ = run(working, events.Heard(task("t2")), events.Heard(task("t3")))
    assert session.tasks == ("t1", "t2", "t3")
    session, _actions = run(session, events.WorkFinished(result()), events.Spooled(result()))
    assert session.job is not None
    assert session.job.task.task == "t2"


def test_a_task_of_a_later_round_replaces_unfinished_ones(working: Session) -> None:
    session, _ = run(working, events.Heard(task("t2")))
    session, actions = run(session, events.Heard(task("t3", round=2)))
    assert events.StopWork("t1") in actions
    assert [message.task for message in kinds(said(actions), Failed)] == ["t1", "t2"]
    assert session.tasks == ("t3",)


def test_a_later_round_leaves_the_spool_alone(holding: Session) -> None:
    session, _ = run(holding, events.Heard(task("t2", round=2)))
    assert session.tasks == ("t2", "t1")


def test_tasks_past_their_deadline_are_dropped_in_hand_and_waiting(working: Session) -> None:
    session, _ = run(working, events.Heard(task("t2", deadline_seconds=50.0)))
    session, actions = run(session, events.Tick(149.0))
    assert not said(actions)
    session, actions = run(session, events.Tick(150.0))
    assert [message.task for message in kinds(said(actions), Failed)] == ["t2"]
    session, actions = run(session, events.Tick(100.0 + 3600.0))
    assert events.StopWork("t1") in actions
    assert session.tasks == ()


def test_the_device_is_looked_at_when_a_task_begins_and_every_ten_seconds(fresh: Session) -> None:
    assert fresh.wake_at == float("inf")
    session, actions = run(fresh, events.Heard(task()))
    assert actions.index(events.Probe()) < actions.index(events.LookUp(PROGRAM))
    session, actions = run(session, events.Probed(()), events.Tick(109.9))
    assert not kinds(actions, events.Probe)
    assert session.wake_at == 110.0
    session, actions = run(session, events.Tick(110.0))
    assert kinds(actions, events.Probe)


def test_a_device_that_is_not_ready_neither_downloads_nor_works(fresh: Session) -> None:
    looked_up = (events.LookedUp(PROGRAM.sha256, ()), events.LookedUp(WEIGHTS.sha256, (1, 2)))
    session, actions = run(fresh, events.Heard(task()), events.Probed(("battery",)), *looked_up)
    assert not kinds(actions, events.Subscribe, events.Work)
    assert kinds(actions, events.Announce)
    session, actions = run(session, events.Probed(("battery",)))
    assert not actions
    session, actions = run(session, events.Probed(()))
    assert len(kinds(actions, events.Subscribe)) == 1


def test_work_is_laid_down_while_the_device_is_not_ready_and_begun_again(working: Session) -> None:
    session, actions = run(working, events.Probed(("external power",)))
    assert events.StopWork("t1") in actions
    assert session.tasks == ("t1",)
    session, actions = run(session, events.WorkFinished(result()))
    assert actions == [events.Discard(TRAINED)]
    session, actions = run(session, events.Probed(()))
    assert kinds(actions, events.Work)


def test_a_download_is_laid_down_while_the_device_is_not_ready(downloading: Session) -> None:
    session, actions = run(downloading, events.Probed(("an unmetered network",)))
    assert len(kinds(actions, events.Unsubscribe)[0].topics) == 2
    session, actions = run(session, events.Tick(150.0))
    assert not said(actions)
    session, actions = run(session, events.Probed(()))
    assert len(kinds(actions, events.Subscribe)[0].topics) == 2


def test_a_blob_that_is_too_large_is_refused() -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3, blob_limit_bytes=1 << 20)
    large = BlobReference(sha256="e" * 64, size=(1 << 20) + 1)
    session, actions = run(session, events.LinkUp(), events.Heard(task(program=large)))
    assert "1048577" in kinds(said(actions), Failed)[0].reason
    assert session.job is None


def test_a_failure_is_said_and_the_next_task_begins(working: Session) -> None:
    session, _ = run(working, events.Heard(task("t2")))
    session, actions = run(session, events.WorkFailed("t1", "the loss is NaN"))
    assert kinds(said(actions), Failed)[0].reason == "the loss is NaN"
    assert session.job is not None
    assert session.job.task.task == "t2"


def test_a_full_disk_fails_the_task(working: Session) -> None:
    session, actions = run(working, events.WorkFinished(result()), events.SpoolBroken("t1", "disk full"))
    assert kinds(said(actions), Failed)[0].reason == "disk full"
    assert session.tasks == ()


def test_the_oldest_results_give_way_when_no_coordinator_comes(holding: Session) -> None:
    session, forgotten = holding, []
    for number in range(64):
        name = f"n{number}"
        happenings = (events.Heard(task(name)), events.LookedUp("a" * 64, ()), events.LookedUp("b" * 64, ()))
        session, actions = run(
            session, *happenings, events.WorkFinished(result(name)), events.Spooled(result(name))
        )
        forgotten += kinds(actions, events.Forget)
    assert forgotten == [events.Forget("t1")]
    assert len(session.held) == 64


def test_a_reboot_announces_what_the_disk_remembers() -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=4, results=[result()], over=["t0"])
    session, actions = run(session, events.Tick(5.0), events.LinkUp())
    assert kinds(actions, events.Announce)[0].tasks == ("t1",)
    assert [message.incarnation for message in said(actions)] == [4]
    session, actions = run(session, events.Heard(task("t0")))
    assert session.job is None


def test_an_orderly_stop_says_so_and_stops_the_work(working: Session) -> None:
    session, actions = run(working, events.StopAsked())
    assert actions[0] == events.StopWork("t1")
    assert kinds(actions, events.Announce)[0].online is False
    assert session.wake_at == float("inf")


FILE = BlobReference(sha256="f" * 64, size=KIB64 + 1)


@pytest.fixture
def updating() -> Session:
    """Connected, with a release judged fit and its second chunk on disk."""
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3, channel="stable")
    happenings = (events.Tick(100.0), events.LinkUp(), events.ReleaseJudged(b"signed", (FILE,)))
    return run(session, *happenings, events.LookedUp(FILE.sha256, (0,)))[0]


def test_a_device_with_a_channel_listens_to_it_and_has_each_release_judged_once(updating: Session) -> None:
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3, channel="stable")
    session, actions = run(session, events.LinkUp(), events.ReleaseOffered(b"signed"))
    assert TOPICS.release("stable") in kinds(actions, events.Subscribe)[0].topics
    assert kinds(actions, events.JudgeRelease) == [events.JudgeRelease(b"signed")]
    _, actions = run(updating, events.ReleaseOffered(b"signed"))
    assert not actions
    _, actions = run(updating, events.ReleaseOffered(b"newer"))
    assert actions == [events.JudgeRelease(b"newer")]


def test_a_release_is_fetched_beside_a_task_and_installed(updating: Session) -> None:
    looked_up = (events.LookedUp(PROGRAM.sha256, ()), events.LookedUp(WEIGHTS.sha256, (1,)))
    session, actions = run(updating, events.Heard(task()), *looked_up)
    assert FILE.sha256 in kinds(actions, events.Prune)[0].keep
    session, actions = run(session, events.ChunkCame(FILE.sha256, 0, bytes(KIB64)))
    assert kinds(actions, events.KeepChunk) == [events.KeepChunk(FILE, 0, bytes(KIB64))]
    session, actions = run(session, events.ChunkKept(FILE.sha256, 0))
    assert kinds(actions, events.InstallRelease) == [events.InstallRelease(b"signed")]
    session, actions = run(session, events.ReleaseInstalled(b"signed", "shapes-1.0.0"))
    assert session.incoming is None
    assert kinds(actions, events.Announce)


def test_a_release_goes_on_after_a_reconnect_and_asks_for_what_does_not_come(updating: Session) -> None:
    session, actions = run(updating, events.LinkDown(), events.LinkUp())
    assert kinds(actions, events.Subscribe)[-1].topics == (TOPICS.chunk(FILE.sha256, 0),)
    assert session.wake_at == 105.0
    _, actions = run(session, events.Tick(105.0))
    assert [(type(message), message.chunks) for message in said(actions)] == [(Missing, (0,))]


def test_a_newer_release_takes_the_place_of_one_that_is_being_fetched(updating: Session) -> None:
    newer = BlobReference(sha256="9" * 64, size=10)
    session, actions = run(updating, events.ReleaseJudged(b"newer", (newer,)))
    assert kinds(actions, events.Unsubscribe) == [events.Unsubscribe((TOPICS.chunk(FILE.sha256, 0),))]
    assert events.LookUp(newer) in actions
    session, _ = run(session, events.ReleaseRefused(b"signed", "too late"))
    assert session.incoming is not None


def test_a_release_that_comes_spoiled_three_times_is_given_up(updating: Session) -> None:
    session = updating
    for _ in range(3):
        session, _ = run(session, events.BlobSpoiled(FILE.sha256), events.LookedUp(FILE.sha256, (0, 1)))
    assert session.incoming is None


def _online(online: bool, epoch: int) -> Event:
    return events.Heard(CoordinatorState(online=online, epoch=epoch))


def _asked(name: str, round: int, epoch: int) -> Task:
    return task(name, round=round, epoch=epoch)


_names = st.sampled_from(["t1", "t2", "t3"])
_small = st.integers(0, 4)
_happenings = st.one_of(
    st.floats(0, 30).map(events.Tick),
    st.just(events.LinkUp()),
    st.just(events.LinkDown()),
    st.builds(_online, st.booleans(), _small),
    st.builds(lambda *fields: events.Heard(_asked(*fields)), _names, _small, _small),
    st.builds(
        lambda name, epoch: events.Heard(down(Settled, name, epoch=epoch, accepted=True)), _names, _small
    ),
    st.builds(lambda name, epoch: events.Heard(down(Cancel, name, epoch=epoch)), _names, _small),
    st.builds(
        lambda name, epoch: events.Heard(down(Grant, name, epoch=epoch, sha256="c" * 64, chunks=(0, 1))),
        _names, _small,
    ),
    st.builds(lambda n: events.ChunkCame("b" * 64, n, bytes(KIB64)), _small),
    st.builds(lambda names: events.WorkFailed(names, "reason"), _names),
    st.builds(lambda name: events.WorkFinished(result(name)), _names),
    st.just(events.BlobSpoiled("b" * 64)),
    st.sampled_from([(), ("battery",)]).map(events.Probed),
    st.just(events.SpoolBroken("t1", "gone")),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_happenings, max_size=60))
def test_whatever_happens_the_session_keeps_its_promises(happenings: list[Event]) -> None:
    """Against a disk that answers at once: no result leaves the spool unless it was settled or cancelled."""
    session = Session.restored(topics=TOPICS, device="d1", incarnation=3)
    disk: dict[str, Result] = {}
    now, counters, working = 0.0, [], ""
    for happening in happenings:
        if isinstance(happening, events.Tick):
            now += happening.now
            happening = events.Tick(now)
        pending: list[Event] = [happening]
        while pending:
            event = pending.pop(0)
            session, actions = step(session, event)
            for action in actions:
                match action:
                    case events.LookUp(blob=blob):
                        pending.append(events.LookedUp(blob.sha256, (0, 1) if blob == WEIGHTS else ()))
                    case events.Probe():
                        pending.append(events.Probed(()))
                    case events.KeepChunk(blob=blob, number=number):
                        pending.append(events.ChunkKept(blob.sha256, number))
                    case events.Spool(result=kept):
                        disk[kept.task] = kept
                        pending.append(events.Spooled(kept))
                    case events.Forget(task=name):
                        assert isinstance(event, events.Heard)
                        assert isinstance(event.message, Settled | Cancel)
                        disk.pop(name, None)
                    case events.Work(task=started):
                        assert not working
                        working = started.task
                    case events.StopWork(task=name):
                        assert name == working
                        working = ""
                    case events.Publish(message=message):
                        assert session.connected
                        counters.append(message.counter)
            if isinstance(
                event, events.WorkFinished | events.WorkFailed | events.Spooled | events.BlobSpoiled
            ):
                working = session.job.task.task if session.job and session.job.working else ""
        names = [held.result.task for held in session.held]
        assert len(names) == len(set(names))
        assert set(names) <= disk.keys()
        assert len(session.tasks) == len(set(session.tasks))
        assert session.wake_at > now or not session.connected
    assert counters == sorted(set(counters))
