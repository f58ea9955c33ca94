"""While Ray's HTTP proxy is gone, who asks is answered 503 with Retry-After instead of finding a closed port.

Ray replaces a proxy that has died, which takes seconds. The program that started the endpoint listens meanwhile where
the proxy did. Both sockets have SO_REUSEPORT, so the new proxy can listen before this one has stopped.
"""

import asyncio
import contextlib
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from serve import problems

LOOK_S = 0.1
"""How often it looks who listens."""
LISTENING = "0A"
"""TCP_LISTEN in Linux's /proc/net/tcp."""
CLIENT_S = 5.0
"""Longest time for one client."""
RETRY_S = 2
DETAIL = "The endpoint is being restarted; try again."


@contextlib.contextmanager
def standing_by(host: str, port: int) -> Iterator[None]:
    """Answer in the proxy's place during a block whenever nothing listens.

    Args:
        host: name or address, as the proxy has it.
        port: number.

    Yields:
        Once it looks who listens.
    """
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_stand_by(host, port, stop)), name="standby", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def listeners(host: str, port: int) -> int:
    """Sockets of this machine that listen there.

    Args:
        host: name or address.
        port: number.

    Returns:
        Their number.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4][0]
    packed = socket.inet_pton(family, str(address))
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    listed = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"
    table = Path("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp")
    rows = (line.split(maxsplit=4) for line in table.read_text(encoding="ascii").splitlines()[1:])
    return sum(row[1] == listed and row[3] == LISTENING for row in rows)


async def _stand_by(host: str, port: int, stop: threading.Event) -> None:
    """Listen whenever nobody does, until somebody does again."""
    while not stop.is_set():
        await asyncio.sleep(LOOK_S)
        with contextlib.suppress(OSError):  # somebody was faster: look again
            if listeners(host, port) == 0:
                server = await asyncio.start_server(_refuse, host, port, reuse_address=True, reuse_port=True)
                while listeners(host, port) == 1 and not stop.is_set():
                    await asyncio.sleep(LOOK_S)
                server.close()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request; its body is read to the end, or the client would find its connection broken."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(CLIENT_S):
            await reader.readuntil(b"\r\n\r\n")
            answer = problems.response(
                503, DETAIL, uuid.uuid4().hex, {"Retry-After": str(RETRY_S), "Connection": "close"}
            )
            head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + bytes(answer.body))
            writer.write_eof()
            await writer.drain()
            while await reader.read(2**16):
                pass
    writer.close()
