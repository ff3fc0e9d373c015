"""What a broker can carry, found out by trying: for `hedgerow doctor`."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Iterator

from ..errors import BrokerError
from .link import Broker, Will
from .peer import Finding, Peer
from .topics import Topics

ROUND_TRIPS = 11
SIZES_KIB = (64, 127, 255, 511, 1023, 2047)
NEEDED_KIB = 66


class Probe:
    """Tries a broker; everything it publishes is below a fleet of its own and is cleared.

    Args:
        broker: Where it is.

    Raises:
        BrokerError: It is not there, or refuses us.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._topics = Topics(f"doctor-{random.getrandbits(32):08x}")

    def findings(self) -> Iterator[Finding]:
        """Everything there is to find out, one by one."""
        with self._peer("a") as first, self._peer("b") as second:
            yield self._round_trip(first)
            yield self._retained(first, second)
            yield self._wildcard(first, second)
            yield self._access(first, second)
        yield self._will()
        yield self._session()
        yield self._size()
        secure = self._broker.tls
        yield Finding(
            "encryption",
            "good" if secure else "limit",
            "TLS" if secure else "none",
            "" if secure else "Use mqtts:// for anything but a machine of your own.",
        )

    def _peer(self, name: str, will: Will | None = None, *, keeps_session: bool = False) -> Peer:
        return Peer(self._broker, f"{self._topics.fleet}-{name}", will, keeps_session=keeps_session)

    def _round_trip(self, peer: Peer) -> Finding:
        topic, times = self._topics.up("a", "ping"), []
        peer.link.subscribe([topic])
        for _ in range(ROUND_TRIPS):
            started = time.monotonic()
            peer.link.publish(topic, b"x")
            if not peer.receives(topic):
                return Finding("messages", "bad", "a message at QoS 1 did not come back", "Look at its ACL.")
            times.append(time.monotonic() - started)
        milliseconds = 1000 * statistics.median(times)
        slow = milliseconds > 20
        advice = "Nagle's algorithm? Set set_tcp_nodelay true in mosquitto.conf." if slow else ""
        return Finding("round trip", "limit" if slow else "good", f"{milliseconds:.1f} ms (median)", advice)

    def _retained(self, first: Peer, second: Peer) -> Finding:
        topic = self._topics.chunk("0" * 64, 0)
        first.link.publish(topic, b"x" * 1000, retain=True)
        time.sleep(0.2)
        second.link.subscribe([topic])
        kept = second.receives(topic)
        first.link.publish(topic, b"", retain=True)
        advice = "" if kept else "Models travel as retained messages: switch them on, or use another broker."
        return Finding("retained messages", "good" if kept else "bad", "kept" if kept else "lost", advice)

    def _wildcard(self, first: Peer, second: Peer) -> Finding:
        topic = self._topics.state("a")
        first.link.publish(topic, b"x", retain=True)
        time.sleep(0.2)
        second.link.subscribe([self._topics.states])
        kept = second.receives(topic, seconds=1.0)
        first.link.publish(topic, b"", retain=True)
        advice = (
            "" if kept else "Devices announce themselves again when the coordinator connects: that is enough."
        )
        found = "come with a wildcard" if kept else "do not come with a wildcard"
        return Finding("retained states", "good" if kept else "limit", found, advice)

    def _access(self, first: Peer, second: Peer) -> Finding:
        topic = self._topics.down("b", "task")
        first.link.subscribe([topic])
        time.sleep(0.1)
        second.link.publish(topic, b"x")
        open_ = first.receives(topic, seconds=1.0)
        advice = (
            "Any client reads and writes for any other: an ACL should keep each to d/<its id>/."
            if open_
            else ""
        )
        return Finding("access control", "limit" if open_ else "good", "none" if open_ else "some", advice)

    def _will(self) -> Finding:
        topic = self._topics.state("w")
        with self._peer("c") as listener:
            listener.link.subscribe([topic])
            came = False
            with contextlib.suppress(BrokerError):
                dying = Peer(self._broker, f"{self._topics.fleet}-w", Will(topic, b"gone"))
                time.sleep(0.1)
                dying.link.cut()
                came = listener.receives(topic)
            listener.link.publish(topic, b"", retain=True)
        advice = "" if came else "Dead devices are only noticed at a round's deadline."
        return Finding("wills", "good" if came else "limit", "sent" if came else "not sent", advice)

    def _session(self) -> Finding:
        """Nothing of ours rests on it; an operator may want to know all the same."""
        topic = self._topics.up("k", "ping")
        with self._peer("k", keeps_session=True) as sleeper:
            sleeper.link.subscribe([topic])
            time.sleep(0.2)
        with self._peer("l") as speaker:
            speaker.link.publish(topic, b"x")
            time.sleep(0.2)
        with self._peer("k", keeps_session=True) as sleeper:
            kept = sleeper.receives(topic, seconds=1.0)
        with self._peer("k"):
            # A clean session ends the one that was kept.
            pass
        found = "kept while a client is away" if kept else "not kept"
        advice = "Not needed: whatever matters is said again when a device is back."
        return Finding("sessions", "good" if kept else "limit", found, "" if kept else advice)

    def _size(self) -> Finding:
        largest = 0
        for kib in SIZES_KIB:
            topic = self._topics.up(f"s{kib}", "size")
            with contextlib.suppress(BrokerError), self._peer(f"s{kib}") as peer:
                peer.link.subscribe([topic])
                peer.link.publish(topic, bytes(kib * 1024 - 200))
                if not peer.receives(topic, size=kib * 1024 - 200):
                    break
                largest = kib
        enough = largest >= NEEDED_KIB
        more = "+" if largest == SIZES_KIB[-1] else ""
        advice = "" if enough else f"Chunks are 64 KiB: allow messages of {NEEDED_KIB} KiB."
        return Finding("largest message", "good" if enough else "bad", f"{largest}{more} KiB", advice)
