"""Signed manifests: RFC 8032's own vectors, every kind of tampering, and keys in files."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import ManifestError, SignatureError
from hedgerow.protocol.manifest import Manifest, ModelFile
from hedgerow.protocol.signatures import SigningKey, VerifyKey, sign_manifest, verify_manifest

DIGEST = hashlib.sha256(b"model").hexdigest()
MANIFEST = Manifest(
    name="digits",
    version="1.0.0",
    weights_digest=DIGEST,
    files=(ModelFile(name="int8.tflite", kind="int8", size=5, sha256=DIGEST, metrics={"accuracy": 0.93}),),
)
KEY = SigningKey.from_bytes(bytes(range(32)))
SIGNED = sign_manifest(MANIFEST, KEY)


def test_ed25519_is_that_of_rfc_8032() -> None:
    # RFC 8032, section 7.1, test 2.
    key = SigningKey.from_bytes(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert bytes(key.verify_key).hex() == public
    assert key.sign(bytes([0x72])).hex() == signature
    VerifyKey.from_bytes(bytes.fromhex(public)).verify(bytes([0x72]), bytes.fromhex(signature))


def test_a_signed_manifest_is_verified_and_stays_readable() -> None:
    assert verify_manifest(SIGNED, [KEY.verify_key]) == MANIFEST
    assert json.loads(SIGNED)["version"] == "1.0.0"
    assert sign_manifest(MANIFEST, KEY) == SIGNED


def test_reformatting_the_json_does_not_break_the_signature() -> None:
    pretty = json.dumps(json.loads(SIGNED), indent=2).encode()
    assert verify_manifest(pretty, [KEY.verify_key]) == MANIFEST


@settings(max_examples=200)
@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, change: int) -> None:
    data = bytearray(SIGNED)
    data[position] ^= change
    try:
        fields = json.loads(bytes(data))
    except ValueError:
        fields = None
    # Base64 and JSON have several spellings of the same value; those are no tampering.
    original = json.loads(SIGNED)
    if fields == original:
        return
    with pytest.raises((SignatureError, ManifestError)):
        verify_manifest(bytes(data), [KEY.verify_key])


@pytest.mark.parametrize(
    "change",
    [
        {"version": "9.0.0"},
        {"unknown_field": 1},
        {"labels": ["a"]},
        {"signature": None},
        {"signature": {"algorithm": "none", "key_id": KEY.verify_key.key_id, "value": ""}},
        {"signature": {"algorithm": "ed25519", "key_id": KEY.verify_key.key_id, "value": "?"}},
        {"signature": {"algorithm": "ed25519", "key_id": KEY.verify_key.key_id, "value": ""}},
        {"signature": {"algorithm": "ed25519", "key_id": "0" * 16, "value": ""}},
    ],
)
def test_a_changed_field_or_signature_is_refused(change: dict[str, object]) -> None:
    data = json.dumps(json.loads(SIGNED) | change).encode()
    with pytest.raises(SignatureError):
        verify_manifest(data, [KEY.verify_key])


def test_an_unsigned_manifest_and_a_stranger_s_are_refused() -> None:
    unsigned = json.loads(SIGNED)
    del unsigned["signature"]
    with pytest.raises(SignatureError, match="without"):
        verify_manifest(json.dumps(unsigned).encode(), [KEY.verify_key])
    stranger = SigningKey.generate()
    with pytest.raises(SignatureError, match="one of the keys"):
        verify_manifest(SIGNED, [stranger.verify_key])
    with pytest.raises(SignatureError):
        verify_manifest(SIGNED, [])
    assert verify_manifest(SIGNED, [stranger.verify_key, KEY.verify_key]) == MANIFEST


@pytest.mark.parametrize("data", [b"", b"[1]", b"null", b"\xff"])
def test_what_is_no_json_object_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError):
        verify_manifest(data, [KEY.verify_key])


def test_keys_live_in_pem_files(tmp_path: Path) -> None:
    secret, public = tmp_path / "fleet.key", tmp_path / "fleet.pub"
    KEY.write(secret)
    KEY.verify_key.write(public)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert SigningKey.read(secret).verify_key == KEY.verify_key
    assert VerifyKey.read(public) == KEY.verify_key
    with pytest.raises(SignatureError, match="never overwritten"):
        SigningKey.generate().write(secret)
    assert SigningKey.read(secret).verify_key == KEY.verify_key


def test_files_without_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "not.key"
    with pytest.raises(SignatureError, match="Cannot read"):
        SigningKey.read(path)
    path.write_bytes(b"hello")
    with pytest.raises(SignatureError, match="PEM"):
        SigningKey.read(path)
    with pytest.raises(SignatureError, match="PEM"):
        VerifyKey.read(path)
    with pytest.raises(SignatureError, match="32 bytes"):
        SigningKey.from_bytes(b"short")
    with pytest.raises(SignatureError, match="32 bytes"):
        VerifyKey.from_bytes(b"short")
