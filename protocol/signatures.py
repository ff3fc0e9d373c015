"""Ed25519 signatures (RFC 8032) of release manifests, and the files that keys live in.

A signed manifest is the manifest's JSON object with one more field:
`"signature": {"algorithm": "ed25519", "key_id": ..., "value": <base64>}`. What is signed is the object
without that field, as JSON with sorted keys and without spaces. Fields that this version does not know are
covered too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ..errors import ManifestError, SignatureError
from . import manifest as manifests
from .manifest import Manifest

_ALGORITHM = "ed25519"


class VerifyKey:
    """The public half of a key: tells whether its owner signed something.

    Attributes:
        key_id: The first 16 hexadecimal digits of the SHA-256 of the key's 32 bytes.
    """

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_id = hashlib.sha256(bytes(self)).hexdigest()[:16]

    def __bytes__(self) -> bytes:
        return self._key.public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key with these 32 bytes."""
        try:
            return cls(Ed25519PublicKey.from_public_bytes(data))
        except ValueError as error:
            raise SignatureError(f"Expected the 32 bytes of an Ed25519 key, received {len(data)}.") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a PEM file (SubjectPublicKeyInfo).

        Raises:
            SignatureError: There is no Ed25519 public key in it.
        """
        try:
            key = load_pem_public_key(_read(path))
        except ValueError as error:
            raise SignatureError(f"Expected a public key in PEM in {str(path)!r}: {error}.") from error
        if not isinstance(key, Ed25519PublicKey):
            raise SignatureError(f"Expected an Ed25519 key in {str(path)!r}, received another kind.")
        return cls(key)

    def write(self, path: str | Path) -> None:
        """Writes the key as PEM."""
        Path(path).write_bytes(self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def verify(self, data: bytes, signature: bytes) -> None:
        """Returns if the owner of this key signed exactly `data`.

        Raises:
            SignatureError: The signature is none of this key over these bytes.
        """
        try:
            self._key.verify(signature, data)
        except InvalidSignature as error:
            raise SignatureError(
                f"The signature is wrong: these {len(data)} bytes are not what the key {self.key_id} signed."
            ) from error


class SigningKey:
    """The secret half of a key. Keep it off devices.

    Attributes:
        verify_key: The public half.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verify_key = VerifyKey(key.public_key())

    @classmethod
    def generate(cls) -> Self:
        """A new key from the system's random numbers."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The key with these 32 secret bytes."""
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(data))
        except ValueError as error:
            raise SignatureError(f"Expected the 32 bytes of an Ed25519 key, received {len(data)}.") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a PEM file (PKCS 8, not encrypted).

        Raises:
            SignatureError: There is no Ed25519 private key in it.
        """
        try:
            key = load_pem_private_key(_read(path), password=None)
        except (ValueError, TypeError) as error:
            raise SignatureError(
                f"Expected an unencrypted private key in PEM in {str(path)!r}: {error}."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SignatureError(f"Expected an Ed25519 key in {str(path)!r}, received another kind.")
        return cls(key)

    def write(self, path: str | Path) -> None:
        """Writes the key as PEM that only its owner may read; never over an existing file.

        Raises:
            SignatureError: A file is there already.
        """
        data = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise SignatureError(
                f"Expected no file at {str(path)!r}: a signing key is never overwritten.",
                remedy="Choose another name, or move the old key away.",
            ) from error
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature over `data`."""
        return self._key.sign(data)


def sign_manifest(manifest: Manifest, key: SigningKey) -> bytes:
    """The manifest as JSON with the key's signature in it."""
    fields = msgspec.json.decode(manifests.encode(manifest))
    value = base64.b64encode(key.sign(_signed_bytes(fields))).decode()
    fields["signature"] = {"algorithm": _ALGORITHM, "key_id": key.verify_key.key_id, "value": value}
    return msgspec.json.encode(fields, order="sorted")


def verify_manifest(data: bytes, keys: Iterable[VerifyKey]) -> Manifest:
    """Reads a manifest that one of `keys` signed.

    Raises:
        SignatureError: It has no signature, one of an unknown key, or one that does not fit the bytes.
        ManifestError: It is signed but no manifest that this version reads.
    """
    fields = _fields(data)
    signature = fields.pop("signature", None)
    if not isinstance(signature, dict) or signature.get("algorithm") != _ALGORITHM:
        raise SignatureError("Expected a manifest with an ed25519 signature, received one without.")
    known = {key.key_id: key for key in keys}
    key = known.get(str(signature.get("key_id")))
    if key is None:
        raise SignatureError(
            f"Expected a signature by one of the keys {sorted(known)}, "
            f"received one by {signature.get('key_id')!r}."
        )
    try:
        value = base64.b64decode(str(signature.get("value")), validate=True)
    except binascii.Error as error:
        raise SignatureError("Expected a signature in base64, received something else.") from error
    key.verify(_signed_bytes(fields), value)
    return manifests.decode(data)


def _fields(data: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"Expected a release manifest, received something else: {error}.") from error
    if not isinstance(fields, dict):
        raise ManifestError(f"Expected a release manifest, received a JSON {type(fields).__name__}.")
    return fields


def _signed_bytes(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields, order="sorted")


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SignatureError(f"Cannot read the key file {str(path)!r}: {error.strerror}.") from error
