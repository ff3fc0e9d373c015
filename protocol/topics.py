"""Where each message travels: the topic tree of one fleet.

At most 8 levels, so that brokers with a limit (AWS IoT Core) carry it. A device writes only below its own
`d/{device}/`, which is what a broker's ACL can enforce with `%u` or `%c`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import TopicError

VERSION = "v1"
_NAME = re.compile(r"[a-z0-9-]{1,48}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def check_name(name: str, *, what: str) -> str:
    """Returns `name` if it may stand in a topic, be a client id and a user name.

    Raises:
        TopicError: `name` is not 1 to 48 characters of a-z, 0-9 and '-'.
    """
    if not _NAME.fullmatch(name):
        raise TopicError(f"Expected a {what} of 1 to 48 characters a-z, 0-9 or '-', received {name!r}.")
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one fleet.

    Args:
        fleet: The fleet's name, `[a-z0-9-]{1,48}`.
    """

    fleet: str

    def __post_init__(self) -> None:
        check_name(self.fleet, what="fleet name")

    @property
    def root(self) -> str:
        """What every topic of the fleet starts with."""
        return f"hedgerow/{VERSION}/{self.fleet}"

    @property
    def coordinator(self) -> str:
        """Retained: is the coordinator online, and in which epoch."""
        return f"{self.root}/all/coordinator"

    @property
    def states(self) -> str:
        """Filter: every device's birth and death."""
        return f"{self.root}/d/+/state"

    @property
    def uplinks(self) -> str:
        """Filter: everything that devices say."""
        return f"{self.root}/d/+/up/+"

    def release(self, channel: str) -> str:
        """Retained: the signed manifest of a channel's current release."""
        return f"{self.root}/all/release/{check_name(channel, what='channel')}"

    def chunk(self, sha256: str, number: int) -> str:
        """Retained: one chunk of a blob."""
        return f"{self.root}/all/blob/{sha256}/{number}"

    def state(self, device: str) -> str:
        """Retained, and the will: one device's birth and death."""
        return f"{self.root}/d/{device}/state"

    def up(self, device: str, kind: str) -> str:
        """From one device."""
        return f"{self.root}/d/{device}/up/{kind}"

    def down(self, device: str, kind: str) -> str:
        """To one device; `kind` "+" is the filter a device subscribes to."""
        return f"{self.root}/d/{device}/down/{kind}"

    def parse(self, topic: str) -> Place | None:
        """What a topic of this fleet names, or None for any other topic."""
        prefix = self.root + "/"
        if not topic.startswith(prefix):
            return None
        match topic.removeprefix(prefix).split("/"):
            case ["all", "coordinator"]:
                return Place(kind="coordinator")
            case ["all", "release", channel]:
                return Place(kind="release", channel=channel)
            case ["all", "blob", sha256, number] if _SHA256.fullmatch(sha256) and _NUMBER.fullmatch(number):
                return Place(kind="blob", sha256=sha256, chunk=int(number))
            case ["d", device, "state"] if _NAME.fullmatch(device):
                return Place(kind="state", device=device)
            case ["d", device, ("up" | "down") as way, kind] if _NAME.fullmatch(device):
                return Place(kind=f"{way}/{kind}", device=device)
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Place:
    """What a topic names.

    Args:
        kind: "coordinator", "release", "blob", "state", "up/<kind>" or "down/<kind>".
        device: The device whose branch it is, else empty.
        channel: The release channel, else empty.
        sha256: The blob, else empty.
        chunk: The chunk's number, else -1.
    """

    kind: str
    device: str = ""
    channel: str = ""
    sha256: str = ""
    chunk: int = -1
