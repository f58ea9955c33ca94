"""ASGI middleware: request -> problem, or the application's answer with this endpoint's headers.

Every request passes it: identity, sizes, host, token and rate before the body; bytes and seconds of the body.
"""

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
from serve.http.bounded_body import BoundedBody, HeldBytes, too_large
from serve.http.request_line import check_host, check_query, check_sizes, plain_number
from serve.measures import Measures
from serve.problems import BROKEN, Problem
from serve.settings import ServeSettings

logger = logging.getLogger("ray.serve")

LIVE = "/v2/health/live"
OPEN_PATHS = (*page.OPEN_PATHS, "/openapi.json", LIVE, "/v2/health/ready")
"""Answered without a token: probes, the page and the description of the API say nothing of models or images."""

POLICY_VIOLATION = 1008
"""Close code of a websocket; before it is accepted, servers answer 403."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """ASGI middleware around the application. There are no CORS headers: pages of other origins cannot read answers.

    Args:
        app: the application.
        settings: of the endpoint.
        measures: where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, measures: Measures) -> None:
        self.app = app
        self.limits = settings.limits
        self.hosts = frozenset(settings.allowed_hosts)
        self.tokens = Tokens(settings.tokens_file, measures.token_refused) if settings.require_token else None
        self.rate = RateLimit.shared(settings.requests_per_second, settings.burst, settings.ingress_replicas)
        self.measures = measures
        self.held = HeldBytes(settings.limits.max_held_bytes)
        self.under_way = 0
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        visit = Visit(scope, send)
        self.under_way += 1
        try:
            body = await self._admit(visit, receive)
            await self.app(visit.inner_scope(), body, visit.leave)
        except Problem as refusal:
            await visit.refuse(refusal)
        except Exception:
            logger.exception("internal error", extra={"request_id": visit.request_id})
            await visit.refuse(Problem(500, BROKEN))
        finally:
            self.under_way -= 1
            visit.release()
            self._record(visit)

    async def drain(self) -> None:
        """Refuse what comes from now on; return when all under way is answered or has had all the time it may take."""
        self.closing = True
        until = time.monotonic() + self.limits.body_timeout_s + self.limits.answer_timeout_s
        while self.under_way and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def _admit(self, visit: "Visit", receive: Receive) -> BoundedBody:
        """The body to be read. Raises Problem 503, 431, 414, 403, 400, 401, 429, 413 or 415 without a look at it."""
        path, headers = visit.scope["path"], visit.headers
        if self.closing and path != LIVE:
            raise Problem(503, "The endpoint is stopping; try again when it is back.", 5)
        check_sizes(visit.scope)
        check_host(headers, self.hosts)
        if path not in OPEN_PATHS:
            holder = "anonymous" if self.tokens is None else self.tokens.holder(headers.get("authorization", ""))
            if holder is None:
                raise Problem(401, "Send the header 'Authorization: Bearer TOKEN' with a token of this endpoint.")
            wait = self.rate.wait_s(holder, time.monotonic())
            if wait:
                raise Problem(429, "This token has used up its rate; wait as long as Retry-After says.", int(wait) + 1)
        check_query(visit.scope["query_string"])
        length = plain_number(headers.get("content-length", "0"))
        if length is None:
            raise Problem(400, "Content-Length is not a number of bytes.")
        visit.body = BoundedBody(receive, self.limits, self.held, visit.coding)
        if length > self.limits.max_body_bytes:
            if "expect" not in headers:  # a client that asks first has not sent anything yet
                await visit.body.linger()
            raise too_large(self.limits)
        return visit.body

    def _record(self, visit: "Visit") -> None:
        """One line and one measurement for every request; nothing of image, class name or token."""
        route = getattr(visit.scope.get("route"), "path", "unmatched")
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
    """One request on its way through the gate.

    Args:
        scope: of the request; its state gets the request's number.
        send: of the server.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self.start = time.perf_counter()
        self.scope = scope
        self.send = send
        self.headers = Headers(scope=scope)
        self.head_only = scope["method"] == "HEAD"
        self.body: BoundedBody | None = None
        self.status = 0
        # Ray's proxy numbers every request and echoes the number itself; without it the gate does.
        given = self.headers.get("x-request-id")
        self.numbered = given is not None
        self.request_id = re.sub(r"[^\w.-]", "", given or "", flags=re.ASCII)[:64] or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.request_id

    @property
    def coding(self) -> str:
        """Content-Encoding, in small letters."""
        return self.headers.get("content-encoding", "").strip().lower()

    def inner_scope(self) -> Scope:
        """The scope for the application: HEAD is answered as GET, and the body has no coding any more.

        Returns:
            A copy.
        """
        # A copy: the server looks at its own scope again when the answer leaves.
        self.scope = {**self.scope, "method": "GET" if self.head_only else self.scope["method"]}
        if self.coding:
            dropped = (b"content-encoding", b"content-length")
            self.scope["headers"] = [entry for entry in self.scope["headers"] if entry[0].lower() not in dropped]
        return self.scope

    async def leave(self, message: Message) -> None:
        """Send a message of the answer, with this endpoint's headers; of the answer to HEAD nothing but the headers.

        Args:
            message: of the application.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            outgoing = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                outgoing.setdefault(name, value)
            if not self.numbered:
                outgoing["X-Request-ID"] = self.request_id
        elif self.head_only and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self.send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun.

        Args:
            problem: why.
        """
        if self.status:
            return
        headers = dict(problem.headers or {})
        answer = problems.response(problem.status_code, problem.detail, self.request_id, headers)
        # A response only looks at the scope's type.
        await answer({"type": "http"}, _nothing, self.leave)

    def release(self) -> None:
        """Give back the bytes that this request's body holds."""
        if self.body is not None:
            self.body.release()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
