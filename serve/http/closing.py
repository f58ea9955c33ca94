"""Ray's HTTP proxy on the way out: it stops listening, answers what is under way, and breaks no connection.

Ray ends its proxies by killing them, and while an application is shut down they answer 500. Here the program that
started the endpoint writes a file when everything else is answered. The proxy sees it with its next request and stops
listening.
"""

import gc
import os
import uuid
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import problems

STOP_FILE_VARIABLE = "BAYES_PFL_STOP_FILE"
"""Names the file; set before Ray's proxies start."""
STOPPING = "The endpoint is stopping; try again when it is back."
RETRY_S = 5


class ClosesAtTheEnd:
    """ASGI middleware of the proxy: while the stop file is there, requests are answered 503 and the server stops."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        name = os.environ.get(STOP_FILE_VARIABLE)
        self.stop_file = Path(name) if name else None
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.stop_file is None or not (self.stopping or self.stop_file.exists()):
            return await self.app(scope, receive, send)
        if not self.stopping:
            self.stopping = True
            stop_listening()
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex
        refusal = problems.response(503, STOPPING, request_id, {"Retry-After": str(RETRY_S)})

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await refusal(scope, receive, closing)


def stop_listening() -> None:
    """Have this process's HTTP servers close their sockets and end when the requests under way are answered."""
    for candidate in gc.get_objects():  # Ray keeps no reference to its server that can be reached
        if isinstance(candidate, uvicorn.Server):
            candidate.should_exit = True
