"""The MQTT link against a real broker, and against things that are none."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from hedgerow.errors import BrokerError, BrokerUrlError
from hedgerow.protocol.link import (
    Broker,
    Connected,
    Disconnected,
    LinkEvent,
    MqttLink,
    Received,
    Will,
    check_reachable,
)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://host", Broker("host", 1883)),
        ("mqtts://host", Broker("host", 8883, tls=True)),
        ("mqtt://me:s%40cret@host:1999/", Broker("host", 1999, username="me", password="s@cret")),
        ("mqtt://[::1]:1884", Broker("::1", 1884)),
    ],
)
def test_addresses(url: str, broker: Broker) -> None:
    assert Broker.from_url(url) == broker


@pytest.mark.parametrize(
    "url", ["", "host:1883", "http://host", "mqtt://", "mqtt://h:0", "mqtt://h:x", "mqtt://h/p"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BrokerUrlError, match="Expected"):
        Broker.from_url(url)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in str(Broker.from_url("mqtt://me:secret@host"))


class Peer:
    """A link with its events in a queue."""

    def __init__(self, broker: Broker, name: str, will: Will | None = None) -> None:
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.link = MqttLink(broker, client_id=name, will=will, on_event=self.events.put)
        assert isinstance(self.events.get(timeout=10), Connected)

    def close(self) -> None:
        self.link.close()

    def received(self) -> Received:
        event = self.events.get(timeout=10)
        assert isinstance(event, Received)
        return event


@pytest.fixture
def broker(broker_url: str) -> Broker:
    return Broker.from_url(broker_url)


def test_retained_wills_and_exact_subscriptions(broker: Broker) -> None:
    with closing(Peer(broker, "link-a")) as first:
        first.link.publish("link/x", b"kept", retain=True)
        first.link.subscribe(["link/x", "link/will"])
        assert first.received() == Received("link/x", b"kept", retained=True)
        second = Peer(broker, "link-b", Will("link/will", b"gone"))
        # The socket is cut without a DISCONNECT, as by a power failure.
        second.link._client.socket().shutdown(socket.SHUT_RDWR)
        second.link._stopping.set()
        assert first.received().payload == b"gone"
        first.link.unsubscribe(["link/x"])
        first.link.publish("link/x", b"", retain=True)
        second.link.close()


def test_only_the_network_thread_touches_the_socket(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL's memory does not survive two threads in one connection."""
    threads: set[str] = set()
    send = socket.socket.send

    def sending(self: socket.socket, data: bytes, *flags: int) -> int:
        if self.family == socket.AF_INET and self.getpeername()[1] == broker.port:
            threads.add(threading.current_thread().name)
        return send(self, data, *flags)

    monkeypatch.setattr(socket.socket, "send", sending, raising=False)
    with closing(Peer(broker, "link-threads")) as peer:
        peer.link.subscribe(["link/threads"])
        for number in range(50):
            peer.link.publish("link/threads", str(number).encode())
        assert [peer.received().payload for _ in range(50)] == [str(number).encode() for number in range(50)]
        peer.link.unsubscribe(["link/threads"])
    assert threads == {"mqtt"}


def test_no_port_is_bound(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox of the agent's service refuses it."""

    def refuse(*_: object) -> None:
        raise PermissionError

    for call in ("bind", "listen", "accept"):
        monkeypatch.setattr(socket.socket, call, refuse)
    with closing(Peer(broker, "link-ports")) as peer:
        peer.link.subscribe(["link/ports"])
        peer.link.publish("link/ports", b"heard")
        assert peer.received().payload == b"heard"


def test_what_is_published_does_not_wait_for_the_loop(broker: Broker) -> None:
    """It wakes the network thread, which else looks up once a second."""
    with closing(Peer(broker, "link-wakes")) as peer:
        peer.link.subscribe(["link/wakes"])
        peer.link.publish("link/wakes", b"first")
        peer.received()
        started = time.monotonic()
        for _ in range(20):
            time.sleep(0.05)
            peer.link.publish("link/wakes", b"again")
            peer.received()
        assert time.monotonic() - started < 10.0


def test_what_is_published_before_close_arrives(broker: Broker) -> None:
    with closing(Peer(broker, "link-c")) as listener:
        listener.link.subscribe(["link/many"])
        speaker = Peer(broker, "link-d")
        for number in range(100):
            speaker.link.publish("link/many", b"%d" % number)
        speaker.close()
        assert [int(listener.received().payload) for _ in range(100)] == list(range(100))


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def rude_port() -> Iterator[int]:
    """A port that answers CONNECT with CONNACK 5: not authorised."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(bytes([0x20, 2, 0, 5]))
                connection.recv(1024)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_no_broker() -> None:
    with pytest.raises(BrokerError, match="refused"):
        check_reachable(Broker("127.0.0.1", 1))


def test_something_that_is_no_broker(deaf_port: int) -> None:
    with pytest.raises(BrokerError, match=r"received no answer in 0\.5 s"):
        check_reachable(Broker("127.0.0.1", deaf_port), timeout_seconds=0.5)


def test_a_broker_that_refuses(rude_port: int) -> None:
    with pytest.raises(BrokerError, match=r"[Nn]ot authori"):
        check_reachable(Broker("127.0.0.1", rude_port))


def test_it_connects_again_by_itself(broker: Broker) -> None:
    with closing(Peer(broker, "link-e")) as peer:
        peer.link._client.socket().shutdown(socket.SHUT_RDWR)
        assert isinstance(peer.events.get(timeout=10), Disconnected)
        assert isinstance(peer.events.get(timeout=10), Connected)
