"""The release manifest: it checks itself, equal ones are equal bytes, nothing leaves the folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ManifestError
from hedgerow.protocol import manifest as manifests
from hedgerow.protocol.manifest import Manifest, ModelFile, Preprocessing, Signature, Tensor

DIGEST = hashlib.sha256(b"weights").hexdigest()


def file(name: str = "int8.tflite", data: bytes = b"model", **fields: object) -> ModelFile:
    values: dict[str, object] = {
        "name": name,
        "kind": "int8",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return msgspec.convert(values | fields, ModelFile)


def manifest(**fields: object) -> Manifest:
    values: dict[str, object] = {
        "name": "digits",
        "version": "1.2.3",
        "weights_digest": DIGEST,
        "files": (file(),),
    }
    return Manifest(**(values | fields))  # type: ignore[arg-type]


numbers = st.integers(0, 999_999_999)
versions = st.tuples(numbers, numbers, numbers)
finite = st.floats(allow_nan=False, allow_infinity=False)
tensors = st.builds(
    Tensor,
    name=st.text(max_size=20),
    shape=st.lists(st.integers(-1, 2**31), max_size=5).map(tuple),
    dtype=st.sampled_from(["int8", "float32", "uint8"]),
    scale=finite,
    zero_point=st.integers(-128, 127),
)
signatures = st.builds(
    Signature,
    inputs=st.lists(tensors, max_size=3).map(tuple),
    outputs=st.lists(tensors, max_size=3).map(tuple),
)
manifests_strategy = st.builds(
    lambda version, labels, metrics, signature, mean, tools: manifest(
        version=".".join(map(str, version)),
        labels=tuple(labels),
        files=(file(metrics=metrics, signatures={"infer": signature}),),
        preprocessing=Preprocessing(mean=tuple(mean), description="text ✓"),
        tools=tools,
    ),
    versions,
    st.lists(st.text(max_size=10), max_size=4),
    st.dictionaries(st.text(max_size=10), finite, max_size=3),
    signatures,
    st.lists(finite, min_size=1, max_size=3),
    st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)


@given(manifests_strategy)
def test_a_manifest_survives_the_way_through_json(value: Manifest) -> None:
    data = manifests.encode(value)
    assert manifests.decode(data) == value
    assert manifests.encode(manifests.decode(data)) == data
    assert list(json.loads(data)) == sorted(json.loads(data))


@given(versions, versions)
def test_versions_are_ordered_by_number_not_by_letter(
    left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    names = [".".join(map(str, version)) for version in (left, right)]
    assert manifests.is_newer(names[0], names[1]) == (left > right)


def test_version_ten_is_newer_than_version_nine() -> None:
    assert manifests.is_newer("1.10.0", "1.9.9")
    assert not manifests.is_newer("1.9.9", "1.9.9")


@pytest.mark.parametrize("version", ["1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "", "v1.2.3", "1.2.3 "])
def test_a_version_of_another_form_is_refused(version: str) -> None:
    with pytest.raises(ManifestError, match=r"MAJOR\.MINOR\.PATCH"):
        manifest(version=version)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "..",
        ".",
        "",
        ".hidden",
        "a..b",
        "a\0b",
        "a\n",
        "manifest.json",
        "é",
    ],
)
def test_a_file_name_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(ManifestError, match="file name"):
        file(name)


@given(st.text(max_size=40))
def test_every_accepted_file_name_stays_in_the_folder(name: str) -> None:
    try:
        accepted = file(name)
    except ManifestError:
        return
    folder = Path("/releases/digits-1.0.0")
    path = (folder / accepted.name).resolve()
    assert path.parent == folder.resolve()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Digits"}, "a-z0-9-"),
        ({"name": "a--b"}, "a-z0-9-"),
        ({"name": "a" * 49}, "48"),
        ({"weights_digest": "abc"}, "64 hexadecimal"),
        ({"files": ()}, "different names"),
        ({"files": (file("a.tflite"), file("A.tflite"))}, "different names"),
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": 0}, "schema_version"),
        ({"minimum_agent": "new"}, r"MAJOR\.MINOR\.PATCH"),
    ],
)
def test_a_manifest_checks_itself(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        manifest(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"metrics": {"accuracy": float("nan")}}, {"size": -1}, {"sha256": "G" * 64}, {"sha256": "0" * 63}],
)
def test_a_file_checks_itself(fields: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        file(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [{"mean": ()}, {"deviation": (0.0,)}, {"mean": (float("inf"),)}])
def test_preprocessing_must_be_computable(numbers: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ManifestError):
        Preprocessing(**numbers)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b'{"name": 3}', b"[" * 100_000])
def test_what_is_no_manifest_is_an_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        manifests.decode(data)


def test_the_checks_hold_for_decoded_manifests_too() -> None:
    data = manifests.encode(manifest()).replace(b"int8.tflite", b"../x.tflite")
    with pytest.raises(ManifestError, match="file name"):
        manifests.decode(data)


def test_files_are_found_by_kind_and_target() -> None:
    general = file("int8.tflite")
    compiled = file("vela.tflite", kind="compiled", targets=["ethos-u55-128"])
    value = manifest(files=(general, compiled))
    assert value.release == "digits-1.2.3"
    assert value.file("int8", target="raspberry-pi-5") is not None
    assert value.file("compiled", target="ethos-u55-128") == compiled
    with pytest.raises(ManifestError, match="float16"):
        value.file("float16")
    with pytest.raises(ManifestError, match="ethos-u65-256"):
        value.file("compiled", target="ethos-u65-256")


def test_a_file_is_compared_with_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    with pytest.raises(ManifestError, match="does not exist"):
        manifests.check_file(path, file())
    path.write_bytes(b"model")
    manifests.check_file(path, file())
    path.write_bytes(b"modem")
    with pytest.raises(ManifestError, match="digest"):
        manifests.check_file(path, file())
    path.write_bytes(b"models")
    with pytest.raises(ManifestError, match="5 bytes"):
        manifests.check_file(path, file())


def test_the_weights_digest_is_the_documented_one() -> None:
    weights = {"b": np.array([1.5], np.float32), "a": np.zeros((1, 2), np.int64)}
    text = b"a\0int64\0[1, 2]\0" + bytes(16) + b"b\0float32\0[1]\0" + b"\x00\x00\xc0\x3f"
    assert manifests.weights_digest(weights) == hashlib.sha256(text).hexdigest()
    swapped = {"a": weights["a"], "b": weights["b"].astype(">f4")}
    assert manifests.weights_digest(swapped) == manifests.weights_digest(weights)
    moved = {"b": weights["b"], "a": weights["a"].T}
    assert manifests.weights_digest(moved) != manifests.weights_digest(weights)
