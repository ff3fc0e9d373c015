"""A TCP proxy that treats MQTT connections badly, told how on standard input.

    python chaos_proxy.py TARGET_PORT LISTEN_PORT ...

A line "LISTEN_PORT MODE SECONDS" begins a fault; MODE is `cut` (at once), `tear` (in the middle of the next
large packet), `hang` (nothing passes, then it is cut), `slow` (64 kbit/s), `late` (2 s), `twice` (every
PUBLISH comes again), `shuffle` (PUBLISH packets overtake each other).
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field

SLOW_BYTES_PER_SECOND = 8000
LATE_SECONDS = 2.0
PUBLISH = 3
LARGE_BYTES = 4000


@dataclass
class Port:
    number: int
    mode: str = ""
    until: float = 0.0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def now(self) -> str:
        return self.mode if asyncio.get_running_loop().time() < self.until else ""

    def cut(self) -> None:
        for writer in tuple(self.writers):
            writer.transport.abort()


async def read_packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(1)
    length, shift = 0, 0
    while True:
        byte = await reader.readexactly(1)
        head += byte
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            return head + await reader.readexactly(length)


async def pump(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop, held = asyncio.get_running_loop(), b""
    while True:
        packet = await read_packet(reader)
        mode = port.now
        while port.now == "hang":
            await asyncio.sleep(0.1)
        is_publish = packet[0] >> 4 == PUBLISH
        if mode == "tear" and len(packet) > LARGE_BYTES:
            writer.write(packet[: len(packet) // 2])
            await writer.drain()
            port.until = 0.0
            return
        if mode == "slow":
            await asyncio.sleep(len(packet) / SLOW_BYTES_PER_SECOND)
        elif mode == "late":
            loop.call_later(LATE_SECONDS, writer.write, packet)
            continue
        elif mode == "twice" and is_publish:
            writer.write(packet)
        elif mode == "shuffle" and is_publish and not held:
            held = packet
            continue
        writer.write(packet + held)
        held = b""
        await writer.drain()


async def serve(port: Port, target: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port.writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            port.writers.discard(writer)
            return
        port.writers.add(up_writer)
        both = [
            asyncio.ensure_future(pump(port, reader, up_writer)),
            asyncio.ensure_future(pump(port, up_reader, writer)),
        ]
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in (*pending, *both):
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for one in (writer, up_writer):
            one.transport.abort()
            port.writers.discard(one)

    await asyncio.start_server(connected, "127.0.0.1", port.number)


async def main() -> None:
    target, *numbers = map(int, sys.argv[1:])
    ports = {number: Port(number) for number in numbers}
    for port in ports.values():
        await serve(port, target)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)  # noqa: T201
    while line := await commands.readline():
        number, mode, seconds = line.decode().split()
        port = ports[int(number)]
        if mode == "cut":
            port.cut()
            continue
        port.mode, port.until = mode, loop.time() + float(seconds)
        if mode in ("hang", "late", "shuffle"):
            # What was held back must not meet what comes after: the connection ends with the fault.
            loop.call_later(float(seconds), port.cut)


if __name__ == "__main__":
    asyncio.run(main())
