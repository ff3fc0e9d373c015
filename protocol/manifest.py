"""The manifest of a release: its files, their targets, and everything a device must know to run one.

On disk and on the wire it is one JSON object with sorted keys, so that equal manifests are equal bytes.
Versions are `MAJOR.MINOR.PATCH` and only go up. A manifest never holds weights.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..errors import ManifestError

if TYPE_CHECKING:
    # An agent that only checks releases does without numpy.
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
"""The newest layout of the manifest that this code reads."""

Kind = Literal[
    "trainable", "float32", "float16", "dynamic", "int8", "int16x8", "int4", "mixed", "compiled", "golden"
]

SERVING_KINDS: tuple[Kind, ...] = ("int8", "int16x8", "float32", "float16")
"""Kinds that devices serve, the best first; files of dynamic range are wrong on tflite-runtime 2.14."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_RESERVED = re.compile(r"manifest\.json", re.IGNORECASE)


class Tensor(msgspec.Struct, frozen=True):
    """An input or output of a signature.

    Attributes:
        name: Its name in the signature.
        shape: Sizes; -1 for one that is open.
        dtype: NumPy's name of the element type.
        scale: Quantization scale, real = scale * (value - zero_point); 0.0 if the tensor is not quantized.
        zero_point: The integer that stands for 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class Signature(msgspec.Struct, frozen=True):
    """The inputs and outputs of one signature, in the file's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Preprocessing(msgspec.Struct, frozen=True):
    """What is done to a raw example before it is the input: `(raw - mean) / deviation`.

    Attributes:
        mean: One number for all channels or one per channel (the last axis).
        deviation: As `mean`; never 0.
        description: The same in words, with what comes before (window length, resizing, units).
    """

    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    description: str = ""

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.deviation)
        if not self.mean or not self.deviation or not all(math.isfinite(n) for n in numbers):
            raise ManifestError(f"Expected finite means and deviations, received {numbers}.")
        if 0.0 in self.deviation:
            raise ManifestError("Expected a deviation other than 0: the preprocessing divides by it.")


class ModelFile(msgspec.Struct, frozen=True):
    """One file of a release.

    Attributes:
        name: File name inside the release's folder, without any folder.
        kind: The recipe it was made with, `trainable`, `compiled` for one accelerator, or `golden` vectors.
        size: Bytes.
        sha256: Digest of the bytes, 64 hexadecimal digits.
        targets: Names of the targets it is for; empty for any that reads its kind.
        signatures: By name; `infer` in files for inference.
        metrics: What was measured on held-out data, by name.
        stateful: Whether a fused LSTM in it keeps its state from one run to the next, so that the variables
            must be reset before each independent example.
    """

    name: str
    kind: Kind
    size: int
    sha256: str
    targets: tuple[str, ...] = ()
    signatures: dict[str, Signature] = {}
    metrics: dict[str, float] = {}
    stateful: bool = False

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name) or ".." in self.name or _RESERVED.fullmatch(self.name):
            raise ManifestError(
                f"Expected a plain file name of letters, digits, '.', '_' and '-', received {self.name!r}.",
                name=self.name,
            )
        if self.size < 0:
            raise ManifestError(f"Expected a size of {self.name!r} from 0, received {self.size}.")
        _check_digest(f"the digest of {self.name!r}", self.sha256)
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise ManifestError(f"Expected a finite number for the metric {name!r}, received {value}.")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A release in words; it checks itself when it is built.

    Attributes:
        name: Name of the model: lower-case letters, digits and single hyphens.
        version: `MAJOR.MINOR.PATCH`.
        weights_digest: :func:`weights_digest` of the Keras model that every file was made from.
        files: At least one; no two share a name.
        labels: Name of each class in the order of the output, empty if the outputs are no classes.
        preprocessing: From a raw example to the input.
        minimum_agent: The oldest agent that can run this release.
        tools: Version of everything that had a hand in the bytes, by distribution name.
        rollout_percent: Of the devices that follow the channel, so many take the release: see `reaches`.
        accuracy_floor: A device whose own test samples it answers worse does not run it; 0.0 is any.
        schema_version: Layout of the manifest.
    """

    name: str
    version: str
    weights_digest: str
    files: tuple[ModelFile, ...]
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    minimum_agent: str = "0.1.0"
    tools: dict[str, str] = {}
    rollout_percent: float = 100.0
    accuracy_floor: float = 0.0
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.schema_version <= SCHEMA_VERSION:
            raise ManifestError(
                f"Expected schema_version 1 to {SCHEMA_VERSION}, received {self.schema_version}.",
                remedy="Update this agent: the release was made by a newer Hedgerow.",
            )
        if not _NAME.fullmatch(self.name) or len(self.name) > 48:
            raise ManifestError(
                f"Expected a name of at most 48 characters [a-z0-9-], received {self.name!r}.", name=self.name
            )
        parse_version(self.version)
        parse_version(self.minimum_agent)
        _check_digest("weights_digest", self.weights_digest)
        if not 0.0 <= self.rollout_percent <= 100.0:
            raise ManifestError(f"Expected a rollout_percent from 0 to 100, received {self.rollout_percent}.")
        if not 0.0 <= self.accuracy_floor <= 1.0:
            raise ManifestError(f"Expected an accuracy_floor from 0 to 1, received {self.accuracy_floor}.")
        names = [file.name.lower() for file in self.files]
        if not names or len(set(names)) != len(names):
            raise ManifestError(f"Expected files with different names, received {sorted(names)}.")

    @property
    def release(self) -> str:
        """Name of the release and of its folder: `<name>-<version>`."""
        return f"{self.name}-{self.version}"

    def reaches(self, device: str) -> bool:
        """Whether the rollout has come to a device.

        A device's place is the first 8 bytes of the SHA-256 of "<device> <release>" as a fraction of 2**64:
        a larger percentage reaches the same devices and more, another release begins with others.
        """
        digest = hashlib.sha256(f"{device} {self.release}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * 100 < self.rollout_percent * 2**64

    def file(self, kind: Kind, *, target: str | None = None) -> ModelFile:
        """The first file of a kind, made for `target` if one is named.

        Raises:
            ManifestError: There is none.
        """
        for file in self.files:
            if file.kind == kind and (target is None or not file.targets or target in file.targets):
                return file
        wanted = kind if target is None else f"{kind} for {target}"
        held = ", ".join(sorted({file.kind for file in self.files}))
        raise ManifestError(f"Expected a file of kind {wanted} in {self.release}, which has {held}.")


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON with sorted keys, the bytes that :func:`signatures.sign_manifest` signs."""
    return msgspec.json.encode(manifest, order="sorted")


def decode(data: bytes | str) -> Manifest:
    """Reads a manifest without asking who signed it; unknown fields are left out.

    Raises:
        ManifestError: The bytes are no manifest, or one of its values does not hold.
    """
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"Expected a release manifest, received something else: {error}.") from error


def parse_version(version: str) -> tuple[int, int, int]:
    """`"1.20.3"` as `(1, 20, 3)`.

    Raises:
        ManifestError: It is not of that form.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ManifestError(f"Expected a version MAJOR.MINOR.PATCH such as 1.0.3, received {version!r}.")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch


def is_newer(version: str, than: str) -> bool:
    """Whether `version` comes after `than`."""
    return parse_version(version) > parse_version(than)


def weights_digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over every weight's name, type, shape and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{list(array.shape)}\0".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def check_file(path: str | Path, file: ModelFile) -> None:
    """Compares a file on this machine with what the manifest says of it.

    Raises:
        ManifestError: It is missing, has another size, or other bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"Expected the file {file.name!r} of the release, {str(path)!r} does not exist.")
    size = path.stat().st_size
    if size != file.size:
        raise ManifestError(f"Expected {file.size} bytes in {file.name!r}, found {size}.", name=file.name)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise ManifestError(
            f"Expected the digest {file.sha256} of {file.name!r}, found {found}.", name=file.name
        )


def _check_digest(what: str, value: str) -> None:
    if not _DIGEST.fullmatch(value):
        raise ManifestError(f"Expected 64 hexadecimal digits as {what}, received {value!r}.")
