"""The phase of a round as a table: what follows from each event, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hedgerow.coordinator import round_events, rounds
from hedgerow.coordinator.policy import TargetOrDeadline
from hedgerow.coordinator.round_events import (
    Ask,
    ChunkStored,
    Close,
    DeviceOffline,
    DeviceOnline,
    GrantChunks,
    Settle,
    Store,
    TaskAccepted,
    TaskFailed,
    Tick,
    UpdateAnnounced,
    UpdateStored,
    Withdraw,
)
from hedgerow.coordinator.rounds import Assignment, Phase, Status
from hedgerow.protocol.messages import BlobReference, Update

BLOB = BlobReference(sha256="0" * 64, size=6 * 65536, codec="f32")


def phase(
    *devices: str,
    target: int | None = None,
    uploads: int = 8,
    online: bool = True,
    seconds: float = float("inf"),
) -> Phase:
    assignments = [Assignment(f"t-{device}", device, seconds=seconds) for device in devices]
    policy = TargetOrDeadline(target=len(devices) if target is None else target, seconds=100.0)
    made = Phase.of(assignments, policy=policy, now=0.0, uploads=uploads)
    return replace(made, online=frozenset(devices) if online else frozenset())


def update(device: str, *, weights: BlobReference | None = BLOB) -> Update:
    return Update(
        device=device, incarnation=1, counter=1, task=f"t-{device}", round=1, num_examples=5, weights=weights
    )


def run(
    state: Phase, *events: round_events.Event, now: float = 1.0
) -> tuple[Phase, list[round_events.Action]]:
    done: list[round_events.Action] = []
    for event in events:
        state, actions = rounds.step(state, event, now)
        done.extend(actions)
    return state, done


def status(state: Phase, device: str) -> Status:
    return state.assignments[f"t-{device}"].status


def test_a_device_is_asked_when_it_can_hear_us() -> None:
    state, actions = run(phase("a", "b", online=False), DeviceOnline("a"))
    assert actions == [Ask("t-a")]
    assert status(state, "b") is Status.ASKED


def test_one_update_goes_the_whole_way() -> None:
    state, actions = run(phase("a"), TaskAccepted("t-a"), UpdateAnnounced(update("a"), (0, 1, 2, 3, 4, 5)))
    assert actions == [GrantChunks("t-a", (0, 1, 2, 3))]
    state, actions = run(state, *(ChunkStored("t-a", tuple(range(n + 1, 6))) for n in range(4)))
    assert actions == [GrantChunks("t-a", (4, 5))], "the next window is granted when the last one is stored"
    state, actions = run(state, ChunkStored("t-a", (5,)), ChunkStored("t-a", ()))
    assert actions == [Store("t-a")]
    state, actions = run(state, UpdateStored("t-a"))
    assert actions == [Settle("a", "t-a", accepted=True), Close("target")]
    assert [a.device for a in state.stored] == ["a"]


def test_an_evaluation_has_nothing_to_upload() -> None:
    _, actions = run(phase("a"), UpdateAnnounced(update("a", weights=None), ()))
    assert actions == [Store("t-a")]


def test_a_duplicate_announcement_of_a_stored_update_is_settled_again_and_not_counted_again() -> None:
    events = (UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    state, _ = run(phase("a", "b"), *events)
    state, actions = run(state, UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    assert actions == [Settle("a", "t-a", accepted=True)]
    assert len(state.stored) == 1


def test_an_update_of_an_unknown_task_is_refused() -> None:
    stranger = Update(device="a", incarnation=1, counter=1, task="old", round=0, num_examples=1)
    state, actions = run(phase("a"), UpdateAnnounced(stranger, ()))
    assert [(a.task, a.accepted) for a in actions if isinstance(a, Settle)] == [("old", False)]
    assert status(state, "a") is Status.ASKED


def test_a_device_cannot_answer_for_another() -> None:
    forged = Update(device="b", incarnation=1, counter=1, task="t-a", round=1, num_examples=1)
    state, actions = run(phase("a", "b"), UpdateAnnounced(forged, ()))
    assert isinstance(actions[0], Settle)
    assert not actions[0].accepted
    assert status(state, "a") is Status.ASKED


def test_uploads_are_bounded_and_the_next_one_starts_when_one_ends() -> None:
    state, actions = run(
        phase("a", "b", uploads=1), UpdateAnnounced(update("a"), (0,)), UpdateAnnounced(update("b"), (0,))
    )
    assert actions == [GrantChunks("t-a", (0,))]
    state, actions = run(state, ChunkStored("t-a", ()), UpdateStored("t-a"))
    assert actions == [Store("t-a"), GrantChunks("t-b", (0,)), Settle("a", "t-a", accepted=True)]


def test_an_upload_of_a_device_that_went_away_frees_its_place() -> None:
    state, _ = run(
        phase("a", "b", uploads=1), UpdateAnnounced(update("a"), (0,)), UpdateAnnounced(update("b"), (0,))
    )
    state, actions = run(state, DeviceOffline("a"))
    assert actions == [GrantChunks("t-b", (0,))]
    assert status(state, "a") is Status.ANNOUNCED


def test_a_stalled_upload_is_granted_again() -> None:
    state, _ = run(phase("a"), UpdateAnnounced(update("a"), (0, 1)))
    state, actions = run(state, Tick(), now=1.0 + rounds.GRANT_AGAIN_SECONDS[0])
    assert actions == [GrantChunks("t-a", (0, 1))]


def test_a_device_that_was_born_again_is_asked_again() -> None:
    state, _ = run(phase("a"), DeviceOnline("a"), TaskAccepted("t-a"))
    _, actions = run(state, DeviceOnline("a"))
    assert actions == [Ask("t-a")]


def test_a_device_that_was_born_again_has_to_accept_again() -> None:
    """It may have been asked before it had subscribed: the question was lost, and the device is idle."""
    state, _ = run(phase("a"), DeviceOnline("a"), TaskAccepted("t-a"), DeviceOnline("a"))
    _, actions = run(state, Tick(), now=1.0 + rounds.ASK_AGAIN_SECONDS)
    assert actions == [Ask("t-a")]
    state, _ = run(state, TaskAccepted("t-a"))
    _, actions = run(state, Tick(), now=1.0 + rounds.ASK_AGAIN_SECONDS)
    assert actions == []


def test_a_task_that_was_not_accepted_is_asked_again_after_a_while() -> None:
    state, _ = run(phase("a"), DeviceOnline("a"))
    _, actions = run(state, Tick(), now=2.0)
    assert actions == []
    _, actions = run(state, Tick(), now=1.0 + rounds.ASK_AGAIN_SECONDS)
    assert actions == [Ask("t-a")]


def test_the_deadline_closes_with_what_there_is() -> None:
    state, _ = run(phase("a", "b"), UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    state, actions = run(state, Tick(), now=100.0)
    assert actions == [Close("deadline"), Withdraw("t-b")]
    state, actions = run(state, UpdateAnnounced(update("b", weights=None), ()), now=101.0)
    assert [(a.task, a.accepted) for a in actions if isinstance(a, Settle)] == [("t-b", False)]
    assert len(state.stored) == 1, "nothing counts after the close"


def test_the_target_closes_before_the_stragglers() -> None:
    events = (UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    _, actions = run(phase("a", "b", target=1), *events)
    assert actions[-2:] == [Close("target"), Withdraw("t-b")]


def test_it_closes_when_every_device_failed() -> None:
    _, actions = run(phase("a"), TaskFailed("t-a", "out of memory", by_device=True))
    assert actions == [Close("all ended")]


def test_a_refused_update_is_said_to_its_device_alone() -> None:
    state, _ = run(phase("a", "b"), UpdateAnnounced(update("a", weights=None), ()))
    state, actions = run(state, TaskFailed("t-a", "NaN", by_device=False))
    assert actions == [Settle("a", "t-a", accepted=False, reason="NaN")]
    assert status(state, "b") is Status.ASKED


def test_a_device_with_a_new_disk_is_asked_from_the_beginning() -> None:
    state, _ = run(phase("a"), UpdateAnnounced(update("a"), (0, 1)))
    same, actions = run(state, DeviceOnline("a", frozenset({"t-a"})))
    assert actions == [GrantChunks("t-a", (0, 1))]
    state, actions = run(same, DeviceOnline("a", frozenset()))
    assert (actions, status(state, "a")) == ([Ask("t-a")], Status.ASKED)


def test_an_update_that_was_trained_again_takes_the_place_of_the_first() -> None:
    other = BlobReference(sha256="1" * 64, size=65536, codec="f32")
    state, _ = run(phase("a"), UpdateAnnounced(update("a"), (0, 1)))
    state, actions = run(state, UpdateAnnounced(update("a", weights=other), (0,)))
    assert actions == [GrantChunks("t-a", (0,))]
    assert state.assignments["t-a"].update == update("a", weights=other)


def test_a_stalled_upload_lets_others_pass_and_waits_longer_each_time() -> None:
    state, _ = run(
        phase("a", "b", uploads=1), UpdateAnnounced(update("a"), (0,)), UpdateAnnounced(update("b"), (0,))
    )
    state, actions = run(state, Tick(), now=11.0)
    assert actions == [GrantChunks("t-b", (0,))]
    state, actions = run(state, Tick(), now=21.0)
    assert actions == [GrantChunks("t-a", (0,))]
    state, actions = run(state, ChunkStored("t-a", ()), UpdateStored("t-a"), now=22.0)
    assert actions == [Store("t-a"), GrantChunks("t-b", (0,)), Settle("a", "t-a", accepted=True)]
    state, actions = run(state, Tick(), now=41.0)
    assert actions == [], "the second wait of b is 20 s"
    state, actions = run(state, Tick(), now=42.0)
    assert actions == [GrantChunks("t-b", (0,))]


def test_an_update_that_arrived_spoilt_is_granted_again_at_once() -> None:
    state, _ = run(phase("a"), UpdateAnnounced(update("a"), (0, 1)), ChunkStored("t-a", (1,)))
    state, actions = run(state, ChunkStored("t-a", (0, 1)))
    assert actions == [GrantChunks("t-a", (0, 1))]


def test_a_device_has_a_deadline_of_its_own() -> None:
    state, _ = run(phase("a", "b", seconds=30.0), UpdateAnnounced(update("a", weights=None), ()))
    state, _ = run(state, UpdateStored("t-a"))
    state, actions = run(state, Tick(), now=30.0)
    assert actions == [Withdraw("t-b"), Close("all ended")]


def test_what_is_complete_at_the_deadline_counts() -> None:
    state, _ = run(phase("a", "b"), UpdateAnnounced(update("a", weights=None), ()))
    state, actions = run(state, Tick(), now=100.0)
    assert Close("deadline") not in actions
    state, actions = run(state, UpdateStored("t-a"), now=100.0)
    assert actions == [Settle("a", "t-a", accepted=True), Close("deadline"), Withdraw("t-b")]


EVENTS = st.one_of(
    st.just(Tick()),
    st.builds(
        DeviceOnline,
        st.sampled_from("abc"),
        st.sampled_from((None, frozenset(), frozenset({"t-a", "t-b", "t-c"}))),
    ),
    st.builds(DeviceOffline, st.sampled_from("abc")),
    st.builds(TaskAccepted, st.sampled_from(("t-a", "t-b", "t-x"))),
    st.builds(
        UpdateAnnounced,
        st.sampled_from([update(d) for d in "abc"]),
        st.sampled_from(((), (0,), (0, 1, 2, 3, 4, 5))),
    ),
    st.builds(ChunkStored, st.sampled_from(("t-a", "t-b", "t-c")), st.sampled_from(((), (5,), (4, 5)))),
    st.builds(UpdateStored, st.sampled_from(("t-a", "t-b", "t-x"))),
    st.builds(TaskFailed, st.sampled_from(("t-a", "t-c")), st.just("why"), st.booleans()),
)


@given(st.lists(EVENTS, max_size=40), st.integers(1, 3), st.integers(1, 2))
def test_whatever_happens_an_update_counts_once_and_never_after_the_close(
    events: list[round_events.Event], target: int, uploads: int
) -> None:
    state = phase("a", "b", "c", target=target, uploads=uploads)
    counted: list[str] = []
    now, closes = 0.0, 0
    for event in events:
        was_closed = bool(state.closed)
        before = {a.task for a in state.stored}
        now += 1.0
        state, actions = rounds.step(state, event, now)
        new = {a.task for a in state.stored} - before
        assert not (was_closed and new)
        counted.extend(new)
        closes += sum(isinstance(action, Close) for action in actions)
        assert sum(a.status is Status.UPLOADING for a in state.assignments.values()) <= uploads
    assert len(counted) == len(set(counted))
    assert closes <= 1


class Patient(TargetOrDeadline):
    """Lets updates count that are one round late."""

    def late(self, rounds_late: int) -> str:
        return "" if rounds_late <= 1 else "two rounds late"


def test_who_may_still_answer_in_the_next_round_works_on() -> None:
    assignments = [Assignment("t-a", "a"), Assignment("t-b", "b"), Assignment("t-c", "c", age=1)]
    state = Phase.of(assignments, policy=Patient(target=1, seconds=100.0), now=0.0)
    state = replace(state, online=frozenset("abc"))
    state, actions = run(state, UpdateAnnounced(update("a"), ()), UpdateStored("t-a"))
    assert state.closed == "target"
    assert [action for action in actions if isinstance(action, Withdraw)] == [Withdraw("t-c")]
    state, actions = run(state, UpdateAnnounced(update("b"), ()), UpdateAnnounced(update("c"), ()))
    assert actions == [Settle("c", "t-c", accepted=False, reason="two rounds late")]
