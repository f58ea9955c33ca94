"""The gate that every HTTP request passes: identity, host, token, rate, size and time of its body; and what it leaves with."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import problems
from serve.http import page
from serve.http.access import RateLimit, Tokens
from serve.measures import Measures
from serve.problems import Problem
from serve.settings import ServeSettings

logger = logging.getLogger("ray.serve")

LIVE = "/v2/health/live"
OPEN_PATHS = (*page.OPEN_PATHS, "/openapi.json", LIVE, "/v2/health/ready")
"""Answered without a token: probes, the page and the description of the API say nothing of models or images."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """ASGI middleware around the application. There are no CORS headers: pages of other origins cannot read answers."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, measures: Measures) -> None:
        self.app = app
        self.limits = settings.limits
        self.hosts = frozenset(settings.allowed_hosts)
        self.tokens = Tokens(settings.tokens_file) if settings.require_token else None
        self.rate = RateLimit(settings.requests_per_second, settings.burst)
        self.measures = measures
        self.held_bytes = 0
        self.under_way = 0
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            return await (
                self.app(scope, receive, send) if scope["type"] == "lifespan" else send({"type": "websocket.close"})
            )
        headers = Headers(scope=scope)
        visit = Visit(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = visit.request_id

        async def leave(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                outgoing = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    outgoing.setdefault(name, value)
                if not visit.numbered:
                    outgoing["X-Request-ID"] = visit.request_id
            await send(message)

        self.under_way += 1
        try:
            self._admit(scope, headers)
            await self.app(scope, self._bounded(visit, receive), leave)
        except Problem as refusal:
            answer = problems.response(
                refusal.status_code, refusal.detail, visit.request_id, dict(refusal.headers or {})
            )
            await answer(scope, receive, leave)
        except Exception:
            logger.exception("internal error", extra={"request_id": visit.request_id})
            if visit.status == 0:
                answer = problems.response(500, "Something broke on our side; quote the request id.", visit.request_id)
                await answer(scope, receive, leave)
        finally:
            self.under_way -= 1
            self.held_bytes -= visit.body_bytes
            self._record(scope, visit)

    async def drain(self) -> None:
        """Refuse what comes from now on; return when everything under way is answered, or has had all the time it may take."""
        self.closing = True
        until = time.monotonic() + self.limits.body_timeout_s + self.limits.answer_timeout_s
        while self.under_way and time.monotonic() < until:
            await asyncio.sleep(0.05)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise Problem 503, 403, 401, 429 or 413 for what needs no look at the body."""
        if self.closing and scope["path"] != LIVE:
            raise Problem(503, "The endpoint is stopping; try again when it is back.", 5)
        host = (
            headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
        )
        if self.hosts and host not in self.hosts:
            raise Problem(403, "This Host is not served here; use the address that the endpoint was started with.")
        if scope["path"] in OPEN_PATHS:
            return
        holder = "anonymous" if self.tokens is None else self.tokens.holder(headers.get("authorization", ""))
        if holder is None:
            raise Problem(401, "Send the header 'Authorization: Bearer TOKEN' with a token of this endpoint.")
        wait = self.rate.wait_s(holder, time.monotonic())
        if wait:
            raise Problem(429, "This token has used up its rate; wait as long as Retry-After says.", int(wait) + 1)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Problem(400, "Content-Length is not a number.")
        if int(length) > self.limits.max_body_bytes:
            raise self._too_large()

    def _bounded(self, visit: "Visit", receive: Receive) -> Receive:
        """`receive` that counts bytes and seconds until the body is there: Problem 413, 503 or 408 beyond the limits."""
        until = time.monotonic() + self.limits.body_timeout_s
        complete = False

        async def bounded() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, until - time.monotonic()))
            except TimeoutError as error:
                raise Problem(408, f"The body did not arrive within {self.limits.body_timeout_s:g} s.") from error
            if message["type"] == "http.request":
                came = len(message.get("body", b""))
                visit.body_bytes += came
                self.held_bytes += came
                complete = not message.get("more_body", False)
            if visit.body_bytes > self.limits.max_body_bytes:
                raise self._too_large()
            if self.held_bytes > self.limits.max_held_bytes:
                raise Problem(503, "Too many bodies are under way; try again.", 1)
            return message

        return bounded

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self.limits.max_body_bytes} bytes; send a smaller image.")

    def _record(self, scope: Scope, visit: "Visit") -> None:
        """One line and one measurement for every request; nothing of image, class name or token."""
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = time.perf_counter() - visit.start
        self.measures.request(route, visit.status, seconds)
        values = {
            "request_id": visit.request_id,
            "route": route,
            "status": visit.status,
            "ms": round(seconds * 1000, 1),
        }
        logger.info("request", extra=values)


class Visit:
    """One request on its way through the gate."""

    def __init__(self, given: str | None) -> None:
        self.start = time.perf_counter()
        self.status = 0
        self.body_bytes = 0
        # Ray's proxy numbers every request and echoes the number itself; without it that is up to us.
        self.numbered = given is not None
        self.request_id = re.sub(r"[^\w.-]", "", given or "", flags=re.ASCII)[:64] or uuid.uuid4().hex
