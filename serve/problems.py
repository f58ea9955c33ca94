"""Errors as `application/problem+json` (RFC 9457): a status, a sentence that says what to do, and the request's id."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from bayes_pfl.command_line import nearest

TITLES = {
    400: "Bad request",
    401: "Token missing or wrong",
    403: "Host not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Body too slow",
    413: "Too large",
    414: "Query too long",
    415: "Not a supported image",
    422: "Invalid parameters",
    429: "Too many requests",
    431: "Headers too large",
    500: "Internal error",
    503: "Busy",
    504: "Took too long",
}


METHODS = {
    "POST": "send the image as the body of a POST, or the images of a batch as JSON",
    "GET": "ask with GET, without a body",
}
"""What to do where a path takes one method."""

BROKEN = "The endpoint failed on this request; tell its operator the request id, which is in the log."


class ProblemBody(BaseModel):
    """Why a request was refused, and what to do (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str = Field(description="`detail` again, where clients of the Open Inference Protocol look for it")
    request_id: str


class Problem(HTTPException):
    """A refusal that reaches the client as problem JSON.

    Args:
        status: HTTP status.
        detail: a sentence that says what is wrong and what to do.
        retry_after_s: when to try again, seconds; none if that would not help.
    """

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(max(1, retry_after_s))}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="bayes-pfl"'
        super().__init__(status, detail, headers)


def body(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """The members of a problem document.

    Args:
        status: HTTP status.
        detail: a sentence that says what is wrong and what to do.
        request_id: the request's number.

    Returns:
        JSON-ready members.
    """
    return ProblemBody(
        title=TITLES.get(status, "Error"), status=status, detail=detail, error=detail, request_id=request_id
    ).model_dump()


def response(status: int, detail: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem document as a response.

    Args:
        status: HTTP status.
        detail: a sentence that says what is wrong and what to do.
        request_id: the request's number.
        headers: further headers.

    Returns:
        The response, `application/problem+json`.
    """
    return JSONResponse(body(status, detail, request_id), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every refusal of the application and of its frameworks, and every error in it, with problem JSON.

    Args:
        app: whose handlers are set.
    """

    async def _refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 405:
            allowed = headers.get("Allow", "another method")
            detail = f"This path takes {allowed}: {METHODS.get(allowed, 'see /openapi.json for all paths')}."
        elif detail == HTTPStatus.NOT_FOUND.phrase:  # the framework's own words
            detail = "There is no such path. See /openapi.json for all of them."
        return response(error.status_code, detail, request.state.request_id, headers)

    async def _invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        parameters = request.scope["route"].dependant.query_params
        names = [name for each in parameters for name in _fields_at(each.field_info.annotation, ()) or [each.name]]
        detail = explain(error.errors(), 1, lambda outer: names) + ". See /openapi.json for what is accepted."
        return response(422, detail, request.state.request_id)

    async def _failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette sends this answer and raises the error again: the gate logs it.
        return response(500, BROKEN, request.state.request_id)

    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)


def _fields_at(model: Any, outer: Sequence[str | int]) -> list[str]:
    """Names of the fields at a place in a message; none where there is no model."""
    for part in outer:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            kinds = (annotation, *get_args(annotation))
            model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(getattr(model, "model_fields", ()))


def explain_body(errors: Sequence[Any], model: type[BaseModel]) -> str:
    """What pydantic found in a body; the nearest name stands beside an unknown one.

    Args:
        errors: of a ValidationError.
        model: that the body should be.

    Returns:
        As `explain`.
    """
    return explain(errors, 0, lambda outer: _fields_at(model, outer))


def explain(
    errors: Sequence[Any], skip: int = 0, names: Callable[[Sequence[str | int]], Sequence[str]] = lambda outer: ()
) -> str:
    """What pydantic found, without repeating the client's own values.

    Args:
        errors: of a ValidationError, or of FastAPI's.
        skip: parts of each place that are not shown: FastAPI puts `query` first.
        names: by place, what may stand there.

    Returns:
        At most five findings, each with its place.
    """
    parts = []
    for finding in errors[:5]:
        where = ".".join(str(part)[:60] for part in finding["loc"][skip:])
        text = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            *outer, last = finding["loc"][skip:]
            text = f"unknown{nearest(str(last)[:60], names(outer)).rstrip('?')}"
        parts.append(f"{where or 'body'}: {text}")
    return "; ".join(parts)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of problem documents.

    Args:
        statuses: of one route; those that the gate answers anywhere are added.

    Returns:
        By status, what FastAPI's `responses` takes.
    """
    everywhere = (400, 401, 403, 408, 413, 414, 415, 429, 431, 500, 503)
    return {
        status: {
            "description": TITLES[status],
            # ProblemBody is among the schemas already, as what BatchAnswer is made of.
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in sorted({*everywhere, *statuses})
    }
