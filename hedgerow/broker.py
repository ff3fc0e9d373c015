"""An MQTT broker for one machine, `python -m hedgerow.broker --port N`: for the demo, not for a fleet.

It has no access control and keeps nothing on disk. A fleet runs Mosquitto or any other broker of its own.
"""

from __future__ import annotations

import argparse
import socket

from .errors import PortInUseError

HOST = "127.0.0.1"
MAX_PAYLOAD_BYTES = 1 << 20


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def check_free(port: int) -> None:
    """Passes if a broker could listen on `port`.

    Raises:
        PortInUseError: Something else does.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise PortInUseError(f"Expected a free port of {HOST}, received {port}: {error}.") from error


def main() -> None:
    """Serves until it is killed."""
    from iotcore import IotCoreBroker

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    broker = IotCoreBroker(listen=HOST, port=arguments.port, max_payload_size=MAX_PAYLOAD_BYTES)
    broker.run_forever()


if __name__ == "__main__":
    main()
