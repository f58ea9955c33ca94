"""The HTTP application, put together: gate, routes, problems. It needs no Ray, and no torch."""

import importlib.metadata

from fastapi import FastAPI

from serve import problems
from serve.http import inference_protocol, page, routes
from serve.http.gate import Gate
from serve.http.service import Service
from serve.measures import Measures
from serve.settings import ServeSettings


def create_app(service: Service, settings: ServeSettings, measures: Measures) -> Gate:
    """The whole application behind its gate. Raises ConfigError if tokens are required and there are none."""
    return Gate(create_api(service), settings, measures)


def create_api(service: Service) -> FastAPI:
    """The application without its gate; `/openapi.json` describes it. Swagger's page is off: it loads scripts from elsewhere."""
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
    return app
