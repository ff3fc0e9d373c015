"""The MQTT connection of both daemons: paho-mqtt behind one small seam.

paho's callbacks only hand events on: no work is done in its network thread. Reconnecting is ours, since paho
waits without jitter, and Nagle is off, since paho leaves it on (44 ms instead of 0.5 ms a QoS 1 round trip).
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from ..errors import BrokerError, BrokerUrlError

BACKOFF_SECONDS = (0.5, 60.0)
KEEPALIVE_SECONDS = 30
LOOP_SECONDS = 1.0
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; subscriptions have to be made again."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone or was refused; the link tries again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came in."""

    topic: str
    payload: bytes
    retained: bool


LinkEvent = Connected | Disconnected | Received


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says, retained, when the connection breaks."""

    topic: str
    payload: bytes


class Link(Protocol):
    """A connection to the broker."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Sends at QoS 1; while there is no connection it waits in memory."""

    def subscribe(self, topics: list[str]) -> None:
        """Asks for messages at QoS 1."""

    def unsubscribe(self, topics: list[str]) -> None:
        """Asks for no more of them."""

    def close(self, *, timeout_seconds: float = 2.0) -> None:
        """Says what is still to be said, for at most about `timeout_seconds`, and disconnects."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is.

    Args:
        host: Name or address.
        port: TCP port.
        tls: Whether the connection is encrypted.
        username: Empty without one.
        password: Empty without one.
    """

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = ""

    @classmethod
    def from_url(cls, url: str) -> Broker:
        """Reads `mqtt://[user:password@]host[:port]` or `mqtts://...`.

        Raises:
            BrokerUrlError: It is something else.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise BrokerUrlError(f"Expected a port from 1 to 65535, received {url!r}.") from error
        if (
            parts.scheme not in ("mqtt", "mqtts")
            or not parts.hostname
            or parts.path not in ("", "/")
            or port == 0
        ):
            raise BrokerUrlError(f"Expected mqtt://host:port or mqtts://host:port, received {url!r}.")
        tls = parts.scheme == "mqtts"
        return cls(
            host=parts.hostname,
            port=port or (8883 if tls else 1883),
            tls=tls,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class _Client(mqtt.Client):
    """paho's, without a port: the sandbox of the agent's service lets nobody bind one.

    paho binds port 0 before it connects, and listens for the other end of what wakes its loop.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sockpairR, self._sockpairW = socket.socketpair()
        self._sockpairR.setblocking(False)
        self._sockpairW.setblocking(False)

    def _create_socket_connection(self) -> socket.socket:
        if self._get_proxy():
            return super()._create_socket_connection()
        return socket.create_connection((self._host, self._port), timeout=self._connect_timeout)


class MqttLink:
    """A `Link` over paho-mqtt, MQTT 3.1.1.

    Args:
        broker: Where to connect.
        client_id: The device's id, or the coordinator's.
        will: What the broker says when the connection breaks.
        on_event: Called in the network thread: hand the event on, do nothing else.
        on_acknowledged: Called in the network thread whenever the broker has acknowledged a message.
        keepalive_seconds: A connection that is silent for one and a half times as long is given up.
        clean_session: Whether the broker forgets us when we go, as both daemons want it to.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        will: Will | None,
        on_event: Callable[[LinkEvent], None],
        on_acknowledged: Callable[[], None] | None = None,
        keepalive_seconds: int = KEEPALIVE_SECONDS,
        clean_session: bool = True,
    ) -> None:
        self._broker = broker
        self._on_event = on_event
        self._stopping = threading.Event()
        self._was_connected = False
        self._last: mqtt.MQTTMessageInfo | None = None
        self._on_acknowledged = on_acknowledged
        self._keepalive_seconds = keepalive_seconds
        self._published = self._acknowledged = 0
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            reconnect_on_failure=False,
        )
        if broker.tls:
            client.tls_set_context(ssl.create_default_context())
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = _disable_nagle
        client.on_socket_register_write = _leave_writing_to_the_loop
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_subscribe = client.on_unsubscribe = _acknowledge_at_once
        client.on_publish = self._was_acknowledged
        self._client = client
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Sends at QoS 1; while there is no connection it waits in memory."""
        self._published += 1
        self._last = self._client.publish(topic, payload, qos=1, retain=retain)

    @property
    def unacknowledged(self) -> int:
        """Messages published that the broker has not acknowledged yet."""
        return self._published - self._acknowledged

    def subscribe(self, topics: list[str]) -> None:
        """Asks for messages at QoS 1, at most 8 filters a packet (AWS IoT Core's limit)."""
        for start in range(0, len(topics), 8):
            self._client.subscribe([(topic, 1) for topic in topics[start : start + 8]])

    def unsubscribe(self, topics: list[str]) -> None:
        """Asks for no more messages on these topics."""
        for start in range(0, len(topics), 8):
            self._client.unsubscribe(topics[start : start + 8])

    def close(self, *, timeout_seconds: float = 2.0) -> None:
        """Waits until what was published is acknowledged, at most `timeout_seconds`, and disconnects."""
        if self._last is not None and self._client.is_connected():
            with contextlib.suppress(RuntimeError, ValueError):
                self._last.wait_for_publish(timeout_seconds)
        self._stopping.set()
        self._client.disconnect()
        self._thread.join(timeout=timeout_seconds)

    def cut(self) -> None:
        """Ends the connection without a word, as a power failure would: the broker then says our will."""
        self._stopping.set()
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        delay = BACKOFF_SECONDS[0]
        while not self._stopping.is_set():
            try:
                self._client.connect(self._broker.host, self._broker.port, keepalive=self._keepalive_seconds)
            except (OSError, ValueError) as error:
                self._on_event(Disconnected(f"{self._broker}: {error}"))
            else:
                self._was_connected = False
                # Not loop_forever: only loop() is woken by a publish.
                while self._client.loop(LOOP_SECONDS) == mqtt.MQTT_ERR_SUCCESS:
                    pass
                if self._was_connected:
                    delay = BACKOFF_SECONDS[0]
            self._stopping.wait(random.uniform(0.5, 1.0) * delay)
            delay = min(delay * 2, BACKOFF_SECONDS[1])

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._on_event(Disconnected(f"{self._broker} refused the connection: {reason}"))
            client.disconnect()
        else:
            self._was_connected = True
            self._on_event(Connected())

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not self._stopping.is_set():
            self._on_event(Disconnected(f"{self._broker}: {reason}"))

    def _was_acknowledged(self, client: Any, *_: Any) -> None:
        _acknowledge_at_once(client)
        self._acknowledged += 1
        if self._on_acknowledged is not None:
            self._on_acknowledged()

    def _received(self, client: Any, userdata: Any, message: Any) -> None:
        _acknowledge_at_once(client)
        self._on_event(Received(message.topic, bytes(message.payload), bool(message.retain)))


def _leave_writing_to_the_loop(*_: Any) -> None:
    """Its being there keeps paho from writing in the thread that publishes, beside the one that reads.

    Two threads in one TLS connection corrupt OpenSSL's memory, and two that write may tear a packet apart.
    """


def _disable_nagle(client: Any, userdata: Any, connection: Any) -> None:
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(client: Any, *_: Any) -> None:
    """Sends the TCP acknowledgement that the kernel would hold back for up to 40 ms, tcp(7).

    Brokers leave Nagle on (rumqttd; Mosquitto unless told otherwise): their next small packet waits for it.
    The kernel falls back by itself, hence again at every packet.
    """
    connection = client.socket()
    if _QUICKACK is not None and isinstance(connection, socket.socket):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def check_reachable(broker: Broker, *, timeout_seconds: float = 5.0) -> None:
    """Connects once, so that a wrong address is one clear line and not a back-off for ever.

    Raises:
        BrokerError: The broker is not there or refuses us.
    """
    outcome: list[LinkEvent] = []
    answered = threading.Event()

    def note(event: LinkEvent) -> None:
        outcome.append(event)
        answered.set()

    link = MqttLink(
        broker, client_id=f"hedgerow-check-{random.getrandbits(32):08x}", will=None, on_event=note
    )
    try:
        answered.wait(timeout_seconds)
    finally:
        link.close()
    if not outcome:
        raise BrokerError(
            f"Expected an MQTT broker at {broker}, received no answer in {timeout_seconds:g} s."
        )
    if isinstance(outcome[0], Disconnected):
        raise BrokerError(f"Expected an MQTT broker that lets us in, received: {outcome[0].reason}.")
