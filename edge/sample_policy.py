"""What the device keeps of its samples."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import SamplesError

STORE_NAME = "samples.db"
Split = Literal["train", "test"]


class SamplePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the store keeps; the table `[sampling]` of `agent.toml`.

    Args:
        limit: Samples at most, over both splits.
        limit_mib: Bytes of samples at most, over both splits.
        keep: "reservoir" keeps a uniform sample of all that were added, "newest" the last ones.
        balance: Take what has to go from the class that has the most samples, so that rare ones stay.
        test_fraction: Share of the samples that are tested with and never trained on.
        encrypted: Encrypt samples on disk with a key of the device.

    Raises:
        SamplesError: A value is outside its range.
    """

    limit: int = 10_000
    limit_mib: int = 64
    keep: Literal["reservoir", "newest"] = "reservoir"
    balance: bool = True
    test_fraction: float = 0.2
    encrypted: bool = False

    def __post_init__(self) -> None:
        checks = {
            "limit": (2 <= self.limit <= 10_000_000, "from 2 to 10,000,000"),
            "limit_mib": (1 <= self.limit_mib <= 1 << 20, "from 1 to 1,048,576"),
            "keep": (self.keep in ("reservoir", "newest"), '"reservoir" or "newest"'),
            "test_fraction": (0.0 <= self.test_fraction < 1.0, "from 0 to below 1"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise SamplesError(
                    f"Expected {name!r} {expected}, received {getattr(self, name)!r}.",
                    remedy="Correct the table [sampling] of agent.toml.",
                )

    def share(self, split: Split) -> float:
        """The part of the limits that one split may fill."""
        return self.test_fraction if split == "test" else 1.0 - self.test_fraction
