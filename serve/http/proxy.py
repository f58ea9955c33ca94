"""ASGI middleware in front of Ray's HTTP proxy: headers that steer Ray, Ray's own errors, the end."""

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import problems
from serve.http.closing import ClosesAtTheEnd

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.http.proxy:middlewares"
"""Ray's proxies load this where the variable is set, which must be so before they start."""

STEERING = re.compile(
    rb"x-request-timeout-seconds|x-request-disconnect-disabled|.*(multiplexed.model|session).id", re.I
)
"""They lift time limits, keep work going for clients that have gone, and bind clients to replicas."""

RAY_PATHS = "/-/"
"""Ray's own health and routes."""
PROBLEM = b"application/problem+json"
"""Every refusal of this project is one; another comes from Ray."""
RETRY_S = 1
POLICY_VIOLATION = 1008


def middlewares() -> list[Middleware]:
    """What Ray's proxies load.

    Returns:
        The middlewares, outermost first.
    """
    return [Middleware(Doorway), Middleware(ClosesAtTheEnd)]


class Doorway:
    """Drops headers that steer Ray and request numbers that are not plain, closes websockets, rewrites Ray's errors.

    Ray answers nothing when the endpoint's process dies under a request, of which the server makes a 500 in plain text,
    and 404 before its proxy has learned where the endpoint is. Clients do not repeat these; both pass, so both become
    503 with Retry-After.

    Args:
        app: Ray's proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to Ray's proxy, and its answer back."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if _may_stay(name, value)]
        if scope["path"].startswith(RAY_PATHS):
            return await self.app(scope, receive, send)
        answer = RayAnswer(scope, receive, send)
        await self.app(scope, receive, answer)
        await answer.finish()


class RayAnswer:
    """ASGI `send` that puts a problem document in the place of Ray's own errors.

    Args:
        scope: of the request.
        receive: of the server.
        send: of the server.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.started = False
        self.replaced = False

    async def __call__(self, message: Message) -> None:
        """Send a message, unless it belongs to an answer that has been replaced."""
        if message["type"] == "http.response.start":
            self.started = True
            names = {name.lower(): value for name, value in message.get("headers", [])}
            if message["status"] >= 400 and names.get(b"content-type") != PROBLEM:
                self.replaced = True
                request_id = names.get(b"x-request-id", b"").decode("latin-1")
                return await self._answer(message["status"], request_id)
        if not self.replaced:
            await self.send(message)

    async def finish(self) -> None:
        """Answer where Ray has ended without any answer."""
        if not self.started:
            await self._answer(500, "")

    async def _answer(self, status: int, request_id: str) -> None:
        detail = "No answer in time; try again." if status == 408 else "The endpoint is being restarted; try again."
        headers = {"Retry-After": str(RETRY_S), "X-Content-Type-Options": "nosniff"}
        if request_id:
            headers["X-Request-ID"] = request_id
        response = problems.response(504 if status == 408 else 503, detail, request_id, headers)
        await response(self.scope, self.receive, self.send)


def _may_stay(name: bytes, value: bytes) -> bool:
    if name.lower() == b"x-request-id":
        return re.fullmatch(rb"[\w.-]{1,64}", value) is not None
    return STEERING.fullmatch(name) is None
