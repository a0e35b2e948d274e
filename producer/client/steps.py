"""The steps of a call: what is sent and how long is paused, told to whoever can do it, blocking or not."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar, cast

import httpx
from pydantic import BaseModel, ValidationError

from producer.client.sources import Named
from producer.errors import (
    BY_CODE,
    AdmissionError,
    Internal,
    InvalidRequest,
    OcrpoolError,
    RequestInProgress,
    TooLarge,
    Unauthorized,
    Unavailable,
    UploadTimeout,
    from_code,
)
from producer.retry_after import retry_after_s

#: The first and the longest pause before a request is sent again, where the gateway names none.
FIRST_S, LONGEST_S = 0.5, 30.0
#: What a `Retry-After` asks for beyond this is no time to wait: it may be a number without end.
LONGEST_RETRY_AFTER_S = 86_400.0
#: Up to this part of a pause is added to it, so that clients that were refused together do not come back together.
JITTER = 0.25
#: Time that a connection and each part of a request or answer may take; fetching a document takes the gateway a while.
CONNECT_S, READ_S = 10.0, 90.0
#: An answer may come so much later than the time that its call has: it was on its way.
LATE_S = 1.0

#: What may be answered otherwise later. Each request is safe to repeat: a submission carries its idempotency key, and
#: the others do the same however often they are sent.
PASSING = (AdmissionError, RequestInProgress, UploadTimeout, Internal)

Returned = TypeVar("Returned")
Answered = TypeVar("Answered", bound=BaseModel)


@dataclass(frozen=True)
class Send:
    """One request. An open file is sent from its start."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    #: Documents with their names.
    files: Sequence[Named] = ()
    #: Longest silence before the answer, in seconds.
    read_s: float = READ_S
    #: When its call's time is up, by `time.monotonic`.
    end: float = math.inf

    def built(
        self, http: httpx.Client | httpx.AsyncClient, trace: Callable[[str, Mapping[str, Any]], None] | None = None
    ) -> httpx.Request:
        """The request for httpx, which tells `trace` what becomes of its connection."""
        left_s = max(self.end - time.monotonic(), 0) + LATE_S
        return http.build_request(
            self.method,
            self.path.lstrip("/"),
            params=self.query,
            headers=self.headers,
            json=self.json,
            data=self.form,
            files=cast(Any, [("file", file) for file in self.files]) or None,
            timeout=httpx.Timeout(min(self.read_s, left_s), connect=min(CONNECT_S, left_s), pool=None),
            extensions={"trace": trace} if trace else {},
        )


@dataclass(frozen=True)
class Pause:
    seconds: float


#: Yields what is to be done. Whoever does it sends the answer to a `Send` back, or throws the `httpx.RequestError` or
#: `OcrpoolError` that it has instead.
Steps = Generator[Send | Pause, httpx.Response | None, Returned]


@dataclass(frozen=True)
class Patience:
    """For how long a call is tried."""

    seconds: float

    def answer(self, request: Send) -> Steps[httpx.Response]:
        """The gateway's answer. What passes is waited out, as long as `Retry-After` says, but not past the patience
        or the request's end.

        Raises:
            OcrpoolError: what the gateway answered instead; its `retry_after_s` tells when to try again.
            Unavailable: no gateway answers.
            InvalidRequest: the request cannot be sent.
        """
        end = min(request.end, time.monotonic() + self.seconds)
        pause_s = FIRST_S
        while True:
            refusal: OcrpoolError
            try:
                answer = yield request
            except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):
                # Without httpx' words for it, as they quote headers.
                raise InvalidRequest("The request cannot be sent: it is not of HTTP's form.") from None
            except httpx.RequestError as error:
                refusal = Unavailable(f"The gateway cannot be reached: {str(error) or type(error).__name__}.")
                refusal.__cause__ = error
            else:
                assert answer is not None
                if answer.is_success:
                    return answer
                refusal = refused(answer)
                if not isinstance(refusal, PASSING):
                    raise refusal
            wait_s = max(pause_s, refusal.retry_after_s or 0) * (1 + JITTER * random.random())
            if time.monotonic() + wait_s > end:
                raise refusal
            yield Pause(wait_s)
            pause_s = min(2 * pause_s, LONGEST_S)


def refused(answer: httpx.Response) -> OcrpoolError:
    """The error that an answer tells: the gateway's own, or that of what stands before it."""
    stranger = f"{answer.url} answered {answer.status_code}, and not as a gateway does."
    error = _problem(answer) or _by_status(answer, stranger)
    if pause_s := retry_after_s(answer.headers.get("retry-after", ""), datetime.now(UTC)):
        error.retry_after_s = math.ceil(min(pause_s, LONGEST_RETRY_AFTER_S))
    return error


def _problem(answer: httpx.Response) -> OcrpoolError | None:
    try:
        problem = answer.json()
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    # Of a newer gateway's code, the status tells whether it is of any use to ask again.
    return from_code(code, detail) if code in BY_CODE or answer.is_server_error else _by_status(answer, detail)


def _by_status(answer: httpx.Response, said: str) -> OcrpoolError:
    match answer.status_code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return Unauthorized(said)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(said)
        case status if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unavailable(said)
    return InvalidRequest(said)


def parsed(model: type[Answered], answer: httpx.Response) -> Answered:
    """The answer's body, less what this version does not know: the gateway may be newer."""
    try:
        return model.model_validate_json(answer.content, extra="ignore")
    except ValidationError as error:
        raise InvalidRequest(f"{answer.url} did not answer as a gateway does.") from error
