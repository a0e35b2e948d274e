"""Errors as answers: `application/problem+json` (RFC 9457) with the codes of `producer.errors`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Scope

from producer.errors import (
    BY_CODE,
    Internal,
    InvalidRequest,
    NotFinished,
    NotFound,
    OcrpoolError,
    Unauthorized,
    UploadTimeout,
)
from producer.escaping import escaped
from producer.gateway import envelopes

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Of a field that is at fault, so much of its name is told.
FIELD_CHARS = 100

#: Seconds after which a client may ask again: short for a job under way, longer for a pool that is full or away.
POLL_AFTER_S = 1
RETRY_AFTER_S = 5


#: Where pydantic's own words are for programmers.
_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")
_SENTENCES = {"model_type": "an object is wanted", "model_attributes_type": "an object is wanted"}


class Problem(BaseModel):
    """The body of every error."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:ocrpool:problem:not_found"])
    title: str = Field(description="The kind of problem in words.", examples=["Not found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="One sentence about this occurrence.", examples=["There is no such job."])
    code: str = Field(description=f"One of {', '.join(sorted(BY_CODE))}.", examples=["not_found"])
    retryable: bool = Field(description="Whether the same request may succeed later.", examples=[False])
    instance: str | None = Field(None, description="The job that the problem is about.", examples=["/v1/jobs/job_..."])


class JobProblem(Exception):
    """An error about one job, whose address the answer carries."""

    def __init__(self, error: OcrpoolError, location: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.location = location


def problem_response(
    error: OcrpoolError,
    scope: Scope,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    instance: str = "",
) -> Response:
    """The answer that tells `error`, as the clients of the address that was asked read it.

    `instance` is the path of the job that it is about.
    """
    problem = problem_of(error, status=status, instance=instance)
    out = dict(headers or {})
    if error.retryable:
        out["Retry-After"] = str(
            error.retry_after_s or (POLL_AFTER_S if isinstance(error, NotFinished) else RETRY_AFTER_S)
        )
    if isinstance(error, Unauthorized):
        out["WWW-Authenticate"] = 'Bearer realm="ocrpool"'
    if instance:
        out["Location"] = instance
    if refused := envelopes.refusal(scope, problem.status, error.code, str(error)):
        known, body = refused
        return Response(body, status_code=known, headers=out, media_type="application/json")
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, status_code=problem.status, headers=out, media_type=MEDIA_TYPE)


def problem_of(error: OcrpoolError, *, status: int | None = None, instance: str = "") -> Problem:
    """The error as a problem."""
    return Problem(
        type=f"urn:ocrpool:problem:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=error.http_status if status is None else status,
        detail=str(error),
        code=error.code,
        retryable=error.retryable,
        instance=instance or None,
    )


def invalid(errors: Sequence[Any]) -> InvalidRequest:
    """The error for pydantic's list of complaints: one sentence that names the first field at fault."""
    first = errors[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    what = _SENTENCES.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    what = _MEMBER.sub(r"\1", what)
    return InvalidRequest(f"{shown_field('.'.join(where)) or 'The request'}: {what[0].lower()}{what[1:]}.")


def shown_field(name: str) -> str:
    """The name of a field, which a stranger may have chosen."""
    return escaped(name)[:FIELD_CHARS]


def responses(*errors: type[OcrpoolError]) -> dict[int | str, dict[str, Any]]:
    """How an operation's errors are documented. Errors of one status share an entry with an example each."""
    documented: dict[int | str, dict[str, Any]] = {}
    kinds: list[type[OcrpoolError]] = [*errors, Internal]
    for error in kinds:
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}}
        entry = documented.setdefault(
            error.http_status, {"description": HTTPStatus(error.http_status).phrase, "content": content}
        )
        example = {
            "type": f"urn:ocrpool:problem:{error.code}",
            "title": error.code.replace("_", " ").capitalize(),
            "status": error.http_status,
            "detail": str(error()),
            "code": error.code,
            "retryable": error.retryable,
        }
        entry["content"][MEDIA_TYPE]["examples"][error.code] = {"value": example}
    return documented


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, OcrpoolError)
    # Who is too slow is not waited for; and who waits to be asked for the body never is.
    ends = isinstance(error, UploadTimeout) or "expect" in request.headers
    return problem_response(error, request.scope, headers={"Connection": "close"} if ends else None)


async def _tell_job(request: Request, error: Exception) -> Response:
    assert isinstance(error, JobProblem)
    return problem_response(error.error, request.scope, instance=error.location)


async def _tell_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid(error.errors()), request.scope)


async def _tell_http(request: Request, error: Exception) -> Response:
    """The framework's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(NotFound("There is nothing at this address."), request.scope)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = InvalidRequest(f"This address does not answer to {request.method}.")
        headers = {**(error.headers or {}), **_allowed(request)}
    else:
        refusal, headers = InvalidRequest(str(error.detail)), dict(error.headers or {})
    return problem_response(refusal, request.scope, status=error.status_code, headers=headers)


def _allowed(request: Request) -> dict[str, str]:
    """What the address answers to: the framework names the methods of one of its routes alone."""
    described = request.app.openapi()["paths"].items()
    of_it = [methods for path, methods in described if compile_path(path)[0].match(request.scope["path"])]
    return {"Allow": ", ".join(sorted({method.upper() for methods in of_it for method in methods}))} if of_it else {}


async def _tell_nobody(request: Request, error: Exception) -> Response:
    """The client hung up while it sent its document. The status, nginx's for this, is seen in metrics alone."""
    return Response(status_code=499)


async def _tell_unexpected(request: Request, error: Exception) -> Response:
    # The server logs the traceback itself: the framework raises the error again once it is answered.
    log.error("gateway.unexpected", method=request.method, path=request.url.path, error=type(error).__name__)
    return problem_response(Internal(), request.scope)


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(OcrpoolError, _tell)
    app.add_exception_handler(JobProblem, _tell_job)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    app.add_exception_handler(Exception, _tell_unexpected)
