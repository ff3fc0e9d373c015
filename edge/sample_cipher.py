"""Samples at rest: as they are, or encrypted with a key that never leaves the device."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Protocol, Self

from ..errors import SamplesError
from ..protocol.blobs import write_durably

KEY_NAME = "samples.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class SampleCipher(Protocol):
    """How bytes of samples stand on disk."""

    def seal(self, data: bytes) -> bytes:
        """The bytes for the disk."""

    def open(self, data: bytes) -> bytes:
        """The bytes from the disk."""

    def digest(self, data: bytes) -> bytes:
        """A short name for equal bytes that tells nothing more about them than the disk may know."""

    def renew(self) -> None:
        """Makes everything sealed so far unreadable."""


class NoCipher:
    """Samples stand on disk as they are."""

    def seal(self, data: bytes) -> bytes:
        """The bytes for the disk."""
        return data

    def open(self, data: bytes) -> bytes:
        """The bytes from the disk."""
        return data

    def digest(self, data: bytes) -> bytes:
        """The bytes themselves."""
        return data

    def renew(self) -> None:
        """Nothing was sealed."""


class Cipher:
    """AES-256-GCM with a random nonce for each value.

    Args:
        path: The file with the key, made with mode 600 if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = (0, 0)
        self._load()

    @classmethod
    def of_device(cls, folder: Path) -> Self:
        """The cipher whose key lies in `folder`."""
        return cls(folder / KEY_NAME)

    def seal(self, data: bytes) -> bytes:
        """Nonce, ciphertext and tag."""
        self._load()
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def open(self, data: bytes) -> bytes:
        """The bytes that were sealed.

        Raises:
            SamplesError: The key is another one, or the bytes were changed.
        """
        from cryptography.exceptions import InvalidTag

        self._load()
        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise SamplesError(
                f"Expected samples sealed with the key in {self._path}, received others.",
                remedy="Restore the key, or forget the samples.",
            ) from error

    def digest(self, data: bytes) -> bytes:
        """A keyed hash, so that the disk does not tell which classes there are."""
        self._load()
        return hmac.digest(self._key, data, hashlib.sha256)[:8]

    def renew(self) -> None:
        """Replaces the key."""
        write_durably(self._path, secrets.token_bytes(_KEY_BYTES))
        self._load()

    def _load(self) -> None:
        """Reads the key unless it is the one at hand: another process may have renewed it."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not self._path.exists():
            self._create()
        found = self._path.stat()
        if (found.st_ino, found.st_mtime_ns) == self._version:
            return
        self._key = self._path.read_bytes()
        if len(self._key) != _KEY_BYTES:
            raise SamplesError(
                f"Expected a key of {_KEY_BYTES} bytes in {self._path}, received {len(self._key)}."
            )
        self._version = found.st_ino, found.st_mtime_ns
        self._cipher = AESGCM(self._key)

    def _create(self) -> None:
        """Makes a key; when another process was faster, its key is the one."""
        draft = self._path.with_name(f"{KEY_NAME}.{secrets.token_hex(8)}")
        write_durably(draft, secrets.token_bytes(_KEY_BYTES))
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, self._path)
        finally:
            draft.unlink()
