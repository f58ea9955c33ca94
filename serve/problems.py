"""Errors as `application/problem+json` (RFC 9457): a status, a sentence that says what to do, and the request's id."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

TITLES = {
    400: "Bad request",
    401: "Token missing or wrong",
    403: "Host not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Body too slow",
    413: "Too large",
    415: "Not a supported image",
    422: "Invalid parameters",
    429: "Too many requests",
    500: "Internal error",
    503: "Busy",
    504: "Took too long",
}


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
    """A refusal that reaches the client as problem JSON."""

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(max(1, retry_after_s))}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="bayes-pfl"'
        super().__init__(status, detail, headers)


def body(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """The members of a problem document."""
    return ProblemBody(
        title=TITLES.get(status, "Error"), status=status, detail=detail, error=detail, request_id=request_id
    ).model_dump()


def response(status: int, detail: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem document as a response."""
    return JSONResponse(body(status, detail, request_id), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every refusal of the application and of its frameworks with problem JSON."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return response(error.status_code, str(error.detail), request.state.request_id, headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response(422, explain(error.errors()), request.state.request_id)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)


def explain(errors: Any) -> str:
    """What pydantic found, without repeating the client's own values."""
    parts = []
    for problem in list(errors)[:5]:
        where = ".".join(str(part)[:60] for part in problem["loc"][1:])
        parts.append(
            f"{where or 'body'}: {problem['msg']}" if problem["type"] != "extra_forbidden" else f"{where}: unknown"
        )
    return "; ".join(parts) + ". See /openapi.json for what is accepted."


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of problem documents; those that the gate answers anywhere are added to all."""
    everywhere = (400, 401, 403, 408, 413, 429, 500, 503)
    return {
        status: {
            "description": TITLES[status],
            # ProblemBody is among the schemas already, as what BatchAnswer is made of.
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in sorted({*everywhere, *statuses})
    }
