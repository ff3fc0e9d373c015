"""Flower's records as bytes: every kind, in order, exactly; and nothing else gets through."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from hedgerow.coordinator import flower_records
from hedgerow.errors import TensorsError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int8", "uint64", "uint8", "bool", "complex64"]


def example() -> RecordDict:
    arrays = {
        "z": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "a": Array(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        "empty": Array(np.frombuffer(b"", np.uint8)),
        "scalar": Array(np.array(3, np.int64)),
        "big-endian": Array(np.arange(3, dtype=">f4")),
        "complex": Array(np.array([1 + 2j])),
        "foreign": Array("weird", (7,), "some.format", b"\x00abc"),
    }
    metrics = {"nan": math.nan, "inf": [1.0, -math.inf], "one": 1, "one point": 1.0, "many": [1, 2]}
    config = {"bytes": b"\xff\x00", "list": [b"a", b""], "text": "ü", "flag": True, "flags": [True, False]}
    return RecordDict(
        {
            "second": MetricRecord(metrics),
            "arrays": ArrayRecord(arrays),
            "config": ConfigRecord(config),
            "none": RecordDict().array_records.get("x", ArrayRecord()),
        }
    )


def assert_equal(found: RecordDict, expected: RecordDict) -> None:
    assert list(found) == list(expected)
    for name, record in expected.items():
        assert type(found[name]) is type(record)
        assert list(found[name]) == list(record)
        for key, value in record.items():
            assert_same(found[name][key], value)


def assert_same(found: Any, value: Any) -> None:
    if isinstance(value, Array):
        assert (found.dtype, tuple(found.shape), found.stype) == (
            value.dtype,
            tuple(value.shape),
            value.stype,
        )
        if value.stype == "numpy.ndarray":
            np.testing.assert_array_equal(found.numpy(), value.numpy())
            assert found.numpy().dtype == value.numpy().dtype
        else:
            assert found.data == value.data
    else:
        # 1 is not 1.0, and NaN is not equal to itself: the words tell.
        assert repr(found) == repr(value)


def test_everything_comes_back_in_its_order() -> None:
    assert_equal(flower_records.decode(flower_records.encode(example())), example())
    assert_equal(flower_records.decode(flower_records.encode(RecordDict())), RecordDict())


def test_from_a_file_arrays_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "reply"
    path.write_bytes(flower_records.encode(example()))
    records = flower_records.open_file(path)
    assert_equal(records, example())
    array = records["arrays"]["z"]
    assert isinstance(array, flower_records.StoredArray)
    np.testing.assert_array_equal(
        Array("float32", (2, 3), "numpy.ndarray", array.data).numpy(), array.numpy()
    )
    path.unlink()
    with pytest.raises(FileNotFoundError):
        array.numpy()


@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
        unique_by=lambda item: item[0],
    )
)
def test_arrays_of_any_kind(items: list[tuple[str, str, list[int]]]) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: Array(rng.integers(0, 2, shape).astype(dtype)) for name, dtype, shape in items}
    records = RecordDict({"arrays": ArrayRecord(arrays)})
    assert_equal(flower_records.decode(flower_records.encode(records)), records)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(TensorsError):
        flower_records.decode(data)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read(place: int, value: int) -> None:
    data = bytearray(flower_records.encode(example()))
    data[place % len(data)] = value
    try:
        found = flower_records.decode(bytes(data))
    except TensorsError:
        return
    assert isinstance(found, RecordDict)


@pytest.mark.parametrize(
    "entries",
    [
        b"[" * 100_000,
        b'[{"name": "m", "metrics": {"a": "text"}}]',
        b'[{"name": "m", "metrics": {"a": {"b": 1}}}]',
        b'[{"name": "c", "config": {"a": {"bytes": "not base64!"}}}]',
        b'[{"name": "a", "arrays": [{"name": "x"}, {"name": "y"}]}]',
        b'[{"name": 1}]',
        b"{}",
    ],
)
def test_what_no_records_are(entries: bytes) -> None:
    data = save({"0": np.zeros(2, np.float32)}, {"flower": entries.decode()})
    with pytest.raises(TensorsError):
        flower_records.decode(data)


def test_types_that_could_not_be_read_from_a_file_are_refused() -> None:
    header = b'{"__metadata__":{"flower":"[]"},"0":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    with pytest.raises(TensorsError):
        flower_records.decode(data)


def test_what_replies_must_share() -> None:
    def reply(shape: tuple[int, ...], dtype: str = "float32", **metrics: float) -> RecordDict:
        arrays = ArrayRecord({"w": Array(np.zeros(shape, dtype))})
        return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1, **metrics})})

    usual = flower_records.signature(reply((2,)))
    assert flower_records.signature(reply((2,))) == usual
    assert flower_records.signature(reply((3,))) != usual
    assert flower_records.signature(reply((2,), "float64")) != usual
    assert flower_records.signature(reply((2,), loss=1.0)) != usual
    trees = [flower_records.signature(reply((length,), "uint8")) for length in (5, 7)]
    assert trees[0] == trees[1], "bytes may differ in length"


def test_spoilt_arrays_are_named() -> None:
    arrays = {"good": Array(np.zeros(2)), "bad": Array(np.array([1.0, np.nan])), "bytes": Array(np.arange(3))}
    assert list(flower_records.spoilt_arrays(RecordDict({"arrays": ArrayRecord(arrays)}))) == ["bad"]
