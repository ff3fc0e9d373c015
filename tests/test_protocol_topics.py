"""Topics: what is built is parsed back, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import TopicError
from hedgerow.protocol.topics import Place, Topics

NAMES = st.from_regex(r"[a-z0-9-]{1,48}", fullmatch=True)
TOPICS = Topics("farm-7")


def test_the_tree_of_the_documentation() -> None:
    assert TOPICS.coordinator == "hedgerow/v1/farm-7/all/coordinator"
    assert TOPICS.release("stable") == "hedgerow/v1/farm-7/all/release/stable"
    assert TOPICS.chunk("ab", 3) == "hedgerow/v1/farm-7/all/blob/ab/3"
    assert TOPICS.state("d1") == "hedgerow/v1/farm-7/d/d1/state"
    assert TOPICS.up("d1", "update") == "hedgerow/v1/farm-7/d/d1/up/update"
    assert TOPICS.down("d1", "task") == "hedgerow/v1/farm-7/d/d1/down/task"


@given(NAMES, NAMES, st.integers(0, 10**6))
def test_round_trip_and_at_most_eight_levels(fleet: str, device: str, chunk: int) -> None:
    topics = Topics(fleet)
    assert topics.parse(topics.state(device)) == Place(kind="state", device=device)
    assert topics.parse(topics.up(device, "update")) == Place(kind="up/update", device=device)
    assert topics.parse(topics.down(device, "task")) == Place(kind="down/task", device=device)
    assert topics.parse(topics.chunk("0f" * 32, chunk)) == Place(kind="blob", sha256="0f" * 32, chunk=chunk)
    for topic in (topics.up(device, "update"), topics.chunk("0" * 64, chunk), topics.release("stable")):
        assert topic.count("/") <= 7


@given(st.text())
def test_any_other_topic_is_none_or_of_this_fleet(topic: str) -> None:
    place = TOPICS.parse(topic)
    assert place is None or topic.startswith(TOPICS.root)


@pytest.mark.parametrize("name", ["", "A", "a/b", "a+b", "#", "a" * 49, "é", "a b", "a\n"])
def test_names_that_cannot_stand_in_a_topic(name: str) -> None:
    with pytest.raises(TopicError, match="Expected a fleet name"):
        Topics(name)


def test_a_device_of_another_fleet_or_with_a_bad_name_is_not_ours() -> None:
    assert TOPICS.parse("hedgerow/v1/farm-8/d/d1/state") is None
    assert TOPICS.parse("hedgerow/v1/farm-7/d/BAD/state") is None
    for number in ("-1", "²", "9" * 5000, ""):
        assert TOPICS.parse(f"hedgerow/v1/farm-7/all/blob/{'ab' * 32}/{number}") is None
    assert TOPICS.parse("hedgerow/v1/farm-7/all/blob/ab/1") is None
