"""What systemd is told while the agent runs: sd_notify(3), a datagram to the socket that it names."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class ServiceManager:
    """Where systemd listens; nothing is said where there is none.

    Args:
        environment: Has `NOTIFY_SOCKET` and, with a watchdog, `WATCHDOG_USEC` for the process `WATCHDOG_PID`.

    Attributes:
        watchdog_seconds: Silence that the watchdog takes for a hang; infinity without one.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if meant and self._address else ""
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() else float("inf")

    def ready(self) -> None:
        """The agent serves."""
        self._say("READY=1")

    def alive(self, status: str) -> None:
        """The agent's loop turns."""
        self._say(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The agent ends in good order."""
        self._say("STOPPING=1")

    def _say(self, words: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line,
        ):
            line.connect(address)
            line.send(words.encode())
