"""Rounds over brokers with limits: AWS IoT Core's, TLS with a password, and access control per device."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from hedgerow.broker import free_port
from hedgerow.edge.config import AgentConfig
from hedgerow.processes import wait_for_port

Fixture = Any
HERE = Path(__file__).parent
FLEET_PROGRAM = HERE.parents[1] / "benchmarks" / "simulated_fleet.py"
Start = Callable[..., int]


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(*lines: str) -> int:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("mosquitto is not installed")
        port = free_port()
        config = tmp_path / "mosquitto.conf"
        config.write_text("\n".join([f"listener {port} 127.0.0.1", "user root", *lines]) + "\n")
        process = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        processes.append(process)
        assert wait_for_port(port, process)
        return port

    yield start
    for process in processes:
        process.kill()
        process.wait()


def run_rounds(rig: Fixture, expected_model: Fixture) -> None:
    rig.configure(start_devices=3, minimum_devices=3)
    rig.start_devices(3)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    assert [len(devices) for devices in rig.counted()] == [3, 3]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model(rig.counted()), rtol=1e-6)


def test_the_limits_of_aws_iot_core(
    start_mosquitto: Start, make_rig: Fixture, expected_model: Fixture
) -> None:
    """128 KB a message, QoS 1; clean sessions, 8 filters a packet and 8 levels are how we talk anyway."""
    port = start_mosquitto("allow_anonymous true", "message_size_limit 131072", "max_qos 1")
    run_rounds(make_rig(f"mqtt://127.0.0.1:{port}"), expected_model)


class OnlyMqtt311:
    """In front of a broker: lets in who says protocol level 4, and answers everybody else as MQTT 3.1.1 asks
    for, with return code 1, "unacceptable protocol version", and the end of the connection.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.levels: list[int] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._connect, args=(self._server.accept()[0],), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(9, socket.MSG_PEEK | socket.MSG_WAITALL)
            # Fixed header, the length of the rest in one byte or two, "MQTT" with its length, the level.
            place = 2 if head[1] < 0x80 else 3
            head = client.recv(place + 7, socket.MSG_PEEK | socket.MSG_WAITALL)
            self.levels.append(head[place + 6])
            if self.levels[-1] != 4:
                client.sendall(b"\x20\x02\x00\x01")
                return
            with socket.create_connection(("127.0.0.1", self._target)) as broker:
                threading.Thread(target=_pump, args=(broker, client), daemon=True).start()
                _pump(client, broker)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_a_broker_that_speaks_mqtt_3_1_1_only(
    start_mosquitto: Start, make_rig: Fixture, expected_model: Fixture
) -> None:
    with contextlib.closing(OnlyMqtt311(start_mosquitto("allow_anonymous true"))) as broker:
        run_rounds(make_rig(f"mqtt://127.0.0.1:{broker.port}"), expected_model)
    assert broker.levels
    assert set(broker.levels) == {4}


def test_each_device_in_its_own_branch(
    tmp_path: Path, start_mosquitto: Start, make_rig: Fixture, expected_model: Fixture
) -> None:
    """The topics that docs/protocol.md asks an ACL for are enough."""
    rig = make_rig("")
    acl = [
        f"pattern readwrite hedgerow/v1/{rig.fleet}/d/%c/#",
        f"pattern read hedgerow/v1/{rig.fleet}/all/#",
        "user coordinator",
        f"topic readwrite hedgerow/v1/{rig.fleet}/#",
    ]
    (tmp_path / "acl").write_text("\n".join(acl) + "\n")
    users = tmp_path / "users"
    command = ["mosquitto_passwd", "-b", "-c", str(users), "coordinator", "s3cret"]
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run(command, check=True, capture_output=True)
    port = start_mosquitto("allow_anonymous true", f"acl_file {tmp_path / 'acl'}", f"password_file {users}")
    rig.broker = f"mqtt://127.0.0.1:{port}"
    rig.start_devices(3)
    rig.broker = f"mqtt://coordinator:s3cret@127.0.0.1:{port}"
    rig.configure(start_devices=3, minimum_devices=3)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    np.testing.assert_allclose(rig.final["dense/bias"], expected_model(rig.counted()), rtol=1e-6)
    assert "s3cret" not in rig.log


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_and_a_password(tmp_path: Path, start_mosquitto: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from hedgerow.errors import BrokerError
    from hedgerow.protocol.link import Broker, check_reachable

    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    certificate, key = _certificate(tmp_path)
    users = tmp_path / "users"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(users), "me", "p@ss"], check=True, capture_output=True
    )
    port = start_mosquitto(
        f"certfile {certificate}", f"keyfile {key}", f"password_file {users}", "allow_anonymous false"
    )
    with pytest.raises(BrokerError, match=r"[Cc]ertificate"):
        check_reachable(Broker.from_url(f"mqtts://me:p%40ss@127.0.0.1:{port}"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    check_reachable(Broker.from_url(f"mqtts://me:p%40ss@127.0.0.1:{port}"))
    with pytest.raises(BrokerError, match=r"[Nn]ot authori"):
        check_reachable(Broker.from_url(f"mqtts://me:wrong@127.0.0.1:{port}"))


def test_rounds_of_real_agents_over_tls_with_passwords(
    tmp_path: Path,
    start_mosquitto: Start,
    make_rig: Fixture,
    expected_model: Fixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    certificate, key = _certificate(tmp_path)
    users = tmp_path / "users"
    for number, user in enumerate(("coordinator", "d0000", "d0001")):
        command = [
            "mosquitto_passwd",
            "-b",
            *(["-c"] if number == 0 else []),
            str(users),
            user,
            f"p@ss {user}",
        ]
        subprocess.run(command, check=True, capture_output=True)
    port = start_mosquitto(
        f"certfile {certificate}", f"keyfile {key}", f"password_file {users}", "allow_anonymous false"
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    rig = make_rig(f"mqtts://coordinator:p%40ss%20coordinator@127.0.0.1:{port}")
    for device in ("d0000", "d0001"):
        folder = rig.folder / device
        (folder / "samples").mkdir(parents=True)
        for split in ("train", "test"):
            x, y = np.zeros((50, 1), np.float32), np.zeros(50, np.int32)
            np.savez(folder / "samples" / f"{split}.npz", x=x, y=y)
        AgentConfig(
            device=device,
            fleet=rig.fleet,
            broker=f"mqtts://{device}:p%40ss%20{device}@127.0.0.1:{port}",
            folder="state",
            samples="samples",
        ).write(folder / "agent.toml")
        arguments = [str(folder / "agent.toml"), str(rig.folder / "history.jsonl"), str(FLEET_PROGRAM)]
        rig.start([sys.executable, str(HERE / "run_agent.py"), *arguments], device)
    rig.configure(start_devices=2, minimum_devices=2, rounds=1)
    assert rig.finish(rig.start_coordinator()) == 0, rig.log[-2000:]
    assert rig.counted() == [("d0000", "d0001")]
    journal = rig.journal()
    (record,) = journal.rounds()
    journal.close()
    model = load((rig.folder / "coordinator" / "blobs" / "complete" / record.weights.sha256).read_bytes())
    np.testing.assert_allclose(model["dense/bias"], expected_model(rig.counted()), rtol=1e-6)


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "broker.pem", folder / "broker.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
