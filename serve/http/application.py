"""Service -> HTTP application: gate, routes and problems put together. It needs no Ray, and no torch."""

import importlib.metadata
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from serve import problems
from serve.http import inference_protocol, page, routes
from serve.http.gate import Gate
from serve.http.schema import BatchRequest
from serve.http.service import Service
from serve.http.tensors import InferRequest
from serve.measures import Measures
from serve.settings import ServeSettings

METHODS = ("GET", "POST")


def create_app(service: Service, settings: ServeSettings, measures: Measures) -> Gate:
    """The whole application behind its gate.

    Args:
        service: what answers.
        settings: of the endpoint.
        measures: where requests are counted.

    Returns:
        An ASGI application.

    Raises:
        ConfigError: tokens are required and there are none.
    """
    api = create_api(service)
    return Gate(Options(api), settings, measures)


def create_api(service: Service) -> FastAPI:
    """The application without its gate; `/openapi.json` describes it.

    Swagger's page is off: it loads scripts from elsewhere.

    Args:
        service: what answers.

    Returns:
        The application.
    """
    app = FastAPI(
        title="Bayes-PFL scoring endpoint",
        version=importlib.metadata.version("bayes-pfl"),
        description="Zero-shot anomaly scores, uncertainty and maps of images.",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(page.make_router())
    app.include_router(routes.make_router(service))
    app.include_router(inference_protocol.make_router(service))
    problems.install(app)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


class Options:
    """ASGI middleware that answers OPTIONS with the methods of a path, and passes everything else on.

    Args:
        app: the application.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app: ASGIApp = app
        self.routes = app.router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer OPTIONS, or let the application answer."""
        if scope["type"] != "http" or scope["method"] != "OPTIONS":
            return await self.app(scope, receive, send)
        methods = [method for method in METHODS if self._answers(scope, method)]
        if not methods:
            problem = problems.response(404, "Not Found", Request(scope).state.request_id)
            return await problem(scope, receive, send)
        allow = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        await Response(status_code=204, headers={"Allow": allow})(scope, receive, send)

    def _answers(self, scope: Scope, method: str) -> bool:
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in self.routes)


def _describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies that routes parse themselves among its schemas."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parsed = [(BatchRequest, "validation"), (InferRequest, "validation")]
        _, bodies = models_json_schema(parsed, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        document["components"]["schemas"] = bodies["$defs"] | document["components"]["schemas"]
        app.openapi_schema = document
    return app.openapi_schema
