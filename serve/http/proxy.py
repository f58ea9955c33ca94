"""Middlewares of Ray's own HTTP proxy: headers that steer Ray are dropped, and the proxy stops listening at the end."""

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.closing import ClosesAtTheEnd

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.http.proxy:middlewares"
"""Ray's proxies load this where the variable is set, which must be so before they start."""

STEERING = re.compile(
    rb"x-request-timeout-seconds|x-request-disconnect-disabled|.*(multiplexed.model|session).id", re.I
)
"""They lift time limits, keep work going for clients that have gone, and bind clients to replicas."""


def middlewares() -> list[Middleware]:
    """The middlewares for Ray's proxies.

    Returns:
        From the outermost on.
    """
    return [Middleware(PlainHeaders), Middleware(ClosesAtTheEnd)]


class PlainHeaders:
    """Drops headers that steer Ray, and request numbers that are not plain: Ray's proxy answers 500 to some of them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the headers that may stay."""
        if scope["type"] == "http":
            scope["headers"] = [(name, value) for name, value in scope["headers"] if self._may_stay(name, value)]
        await self.app(scope, receive, send)

    def _may_stay(self, name: bytes, value: bytes) -> bool:
        if name.lower() == b"x-request-id":
            return re.fullmatch(rb"[\w.-]{1,64}", value) is not None
        return STEERING.fullmatch(name) is None
