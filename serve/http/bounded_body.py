"""One request's body as it comes -> the same, decompressed, refused as soon as it passes a limit."""

import asyncio
import contextlib
import time
import zlib

from starlette.types import Message, Receive

from serve.problems import Problem
from serve.settings import Limits

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings, and what zlib calls their headers (`wbits`)."""
STEP_BYTES = 2**20
"""Decompressed at once: about 3 ms, in a thread."""

LINGER_S = 2.0
LINGER_BODIES = 4
"""A body that is too large is read on for so long, up to so many times the limit: a client that is cut off
while it sends sees a broken connection instead of the answer."""


class HeldBytes:
    """Bytes of the bodies of all requests under way.

    Args:
        limit: the most that may be held, bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0


class BoundedBody:
    """ASGI `receive` that counts the bytes and seconds of one body, and decompresses it.

    Args:
        receive: of the server.
        limits: on bytes and seconds.
        held: the account that all requests share.
        coding: Content-Encoding of the body.

    Raises:
        Problem: at once, 415 for an unknown coding; when called, 408, 413 or 503 beyond a limit, 400 for a body that
            is not compressed as its coding says.
    """

    def __init__(self, receive: Receive, limits: Limits, held: HeldBytes, coding: str) -> None:
        self.receive = receive
        self.limits = limits
        self.held = held
        self.until = time.monotonic() + limits.body_timeout_s
        self.counted = 0
        self.passed = 0
        self.complete = False
        self.inflater = None if coding in ("", "identity") else Inflater(coding)
        self.last_came = False

    async def __call__(self) -> Message:
        """The next message of the server; while the body is not complete, within the limits."""
        if self.complete:
            return await self.receive()
        if self.inflater is None:
            message = await self._next()
            if message["type"] == "http.request":
                self.last_came = not message.get("more_body", False)
                await self._pass_on(len(message.get("body", b"")))
                self.complete = self.last_came
            return message
        if not self.inflater.pending:
            message = await self._next()
            if message["type"] != "http.request":
                return message
            self.last_came = not message.get("more_body", False)
            self._count(len(message.get("body", b"")))
            self.inflater.feed(message.get("body", b""))
        piece = await asyncio.to_thread(self.inflater.step)
        await self._pass_on(len(piece))
        self.complete = self.last_came and not self.inflater.pending
        if self.complete and not self.inflater.finished:
            raise Problem(400, "The compressed body is cut short.")
        return {"type": "http.request", "body": piece, "more_body": not self.complete}

    async def linger(self) -> None:
        """Read on and drop what comes, for a bounded time and size."""
        left, more = LINGER_BODIES * self.limits.max_body_bytes, not self.last_came
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while more and left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    more = message["type"] == "http.request" and message.get("more_body", False)

    def release(self) -> None:
        """Take this body off the shared account."""
        self.held.total -= self.counted
        self.counted = 0

    async def _next(self) -> Message:
        try:
            return await asyncio.wait_for(self.receive(), max(0.001, self.until - time.monotonic()))
        except TimeoutError as error:
            raise Problem(408, f"The body did not arrive within {self.limits.body_timeout_s:g} s.") from error

    async def _pass_on(self, size: int) -> None:
        self.passed += size
        if self.passed > self.limits.max_body_bytes:
            await self.linger()
            raise too_large(self.limits)
        self._count(size)

    def _count(self, size: int) -> None:
        self.counted += size
        self.held.total += size
        if self.counted > 2 * self.limits.max_body_bytes:  # compressed and not
            raise too_large(self.limits)
        if self.held.total > self.held.limit:
            raise Problem(503, "Too many bodies are under way; try again.", 1)


class Inflater:
    """Decompresses one gzip or zlib stream in steps of bounded size.

    Args:
        coding: Content-Encoding.

    Raises:
        Problem: 415 for an unknown coding.
    """

    def __init__(self, coding: str) -> None:
        if coding not in CODINGS:
            raise Problem(415, "This Content-Encoding is not read; send the body with gzip, deflate, or without one.")
        self.coding = coding
        self.stream = zlib.decompressobj(CODINGS[coding])
        self.waiting = b""
        self.pending = False

    @property
    def finished(self) -> bool:
        """Whether the stream's end has been read."""
        return self.stream.eof

    def feed(self, data: bytes) -> None:
        """Take compressed bytes.

        Args:
            data: what comes next in the stream.
        """
        self.waiting = data
        self.pending = True

    def step(self) -> bytes:
        """Decompress some of what is waiting.

        Returns:
            At most `STEP_BYTES` bytes.

        Raises:
            Problem: 400 if this is no such stream, or something follows it.
        """
        if self.finished and self.waiting:
            raise Problem(400, "Bytes follow the compressed body; compress it as one part.")
        try:
            data = self.stream.decompress(self.waiting, STEP_BYTES)
        except zlib.error as error:
            raise Problem(400, f"The body is not {self.coding}, as its Content-Encoding says.") from error
        self.waiting = self.stream.unconsumed_tail or self.stream.unused_data
        self.pending = bool(self.waiting) or len(data) == STEP_BYTES
        return data


def too_large(limits: Limits) -> Problem:
    """The refusal of a body beyond the limit.

    Args:
        limits: with the limit.

    Returns:
        Problem 413 that names the option.
    """
    return Problem(
        413,
        f"The body is larger than {limits.max_body_bytes} bytes; send a smaller image, or start the endpoint with a "
        "larger --max-body-mb (limits.max_body_bytes).",
    )
