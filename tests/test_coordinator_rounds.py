"""The phase of a round as a table: what follows from each event, worked out by hand."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from hedgerow.coordinator import rounds
from hedgerow.coordinator.rounds import (
    Ask,
    Assignment,
    ChunkStored,
    Close,
    DeviceOffline,
    DeviceOnline,
    GrantChunks,
    Phase,
    Settle,
    Status,
    Store,
    TaskAccepted,
    TaskFailed,
    Tick,
    UpdateAnnounced,
    UpdateStored,
    Withdraw,
)
from hedgerow.protocol.messages import BlobReference, Update

BLOB = BlobReference(sha256="0" * 64, size=6 * 65536, codec="f32")


def phase(*devices: str, target: int | None = None, uploads: int = 8, online: bool = True) -> Phase:
    assignments = {f"t-{device}": Assignment(f"t-{device}", device) for device in devices}
    return Phase(
        assignments=MappingProxyType(assignments),
        deadline=100.0,
        target=len(devices) if target is None else target,
        uploads=uploads,
        online=frozenset(devices) if online else frozenset(),
    )


def update(device: str, *, weights: BlobReference | None = BLOB) -> Update:
    return Update(
        device=device, incarnation=1, counter=1, task=f"t-{device}", round=1, num_examples=5, weights=weights
    )


def run(state: Phase, *events: rounds.Event, now: float = 1.0) -> tuple[Phase, list[rounds.Action]]:
    done: list[rounds.Action] = []
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
    assert actions == [Store("t-a"), Settle("a", "t-a", accepted=True), GrantChunks("t-b", (0,))]


def test_an_upload_of_a_device_that_went_away_frees_its_place() -> None:
    state, _ = run(
        phase("a", "b", uploads=1), UpdateAnnounced(update("a"), (0,)), UpdateAnnounced(update("b"), (0,))
    )
    state, actions = run(state, DeviceOffline("a"))
    assert actions == [GrantChunks("t-b", (0,))]
    assert status(state, "a") is Status.ANNOUNCED


def test_a_stalled_upload_is_granted_again() -> None:
    state, _ = run(phase("a"), UpdateAnnounced(update("a"), (0, 1)))
    state, actions = run(state, Tick(), now=1.0 + rounds.GRANT_AGAIN_SECONDS)
    assert actions == [GrantChunks("t-a", (0, 1))]


def test_a_device_that_was_born_again_is_asked_again() -> None:
    state, _ = run(phase("a"), DeviceOnline("a"), TaskAccepted("t-a"))
    _, actions = run(state, DeviceOnline("a"))
    assert actions == [Ask("t-a")]


def test_a_task_that_was_not_accepted_is_asked_again_after_a_while() -> None:
    state, _ = run(phase("a"), DeviceOnline("a"))
    _, actions = run(state, Tick(), now=2.0)
    assert actions == []
    _, actions = run(state, Tick(), now=1.0 + rounds.ASK_AGAIN_SECONDS)
    assert actions == [Ask("t-a")]


def test_the_deadline_closes_with_what_there_is() -> None:
    state, _ = run(phase("a", "b"), UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    state, actions = run(state, Tick(), now=100.0)
    assert actions == [Withdraw("t-b"), Close("deadline")]
    state, actions = run(state, UpdateAnnounced(update("b", weights=None), ()), now=101.0)
    assert [(a.task, a.accepted) for a in actions if isinstance(a, Settle)] == [("t-b", False)]
    assert len(state.stored) == 1, "nothing counts after the close"


def test_the_target_closes_before_the_stragglers() -> None:
    events = (UpdateAnnounced(update("a", weights=None), ()), UpdateStored("t-a"))
    _, actions = run(phase("a", "b", target=1), *events)
    assert actions[-2:] == [Withdraw("t-b"), Close("target")]


def test_it_closes_when_every_device_failed() -> None:
    _, actions = run(phase("a"), TaskFailed("t-a", "out of memory", by_device=True))
    assert actions == [Close("all ended")]


def test_a_refused_update_is_said_to_its_device_alone() -> None:
    state, _ = run(phase("a", "b"), UpdateAnnounced(update("a", weights=None), ()))
    state, actions = run(state, TaskFailed("t-a", "NaN", by_device=False))
    assert actions == [Settle("a", "t-a", accepted=False, reason="NaN")]
    assert status(state, "b") is Status.ASKED


EVENTS = st.one_of(
    st.just(Tick()),
    st.builds(DeviceOnline, st.sampled_from("abc")),
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
    events: list[rounds.Event], target: int, uploads: int
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
