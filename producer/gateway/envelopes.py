"""Errors in the form that PaddleOCR's and PaddleX's clients read: their envelopes in place of a problem document."""

from __future__ import annotations

import json
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

#: The paths that speak as PaddleOCR's hosted service.
PADDLEOCR = "/api/v2/ocr/"
#: The path that speaks as PaddleX's server, to whoever sends JSON.
PADDLEX = "/ocr"
_LOG_ID = "ocrpool.log_id"
#: Statuses of ours that say the request is at fault. PaddleOCR's client knows one for it.
_BAD_REQUEST = frozenset({413, 415, 422})


def sends_json(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def refusal(scope: Scope, status: int, code: str, sentence: str) -> tuple[int, str] | None:
    """Status and body of an error at such an address; None where problem documents are spoken.

    `code` is one of `producer.errors`, for programs that want to know more than the status tells.
    """
    path = scope["path"]
    if f"{path}/".startswith(PADDLEOCR):
        status = 400 if status in _BAD_REQUEST else status
        return status, json.dumps({"logId": log_id(), "code": status, "msg": sentence, "error": code})
    if path == PADDLEX and sends_json(scope):
        named = scope.get(_LOG_ID) or log_id()
        return status, json.dumps({"logId": named, "errorCode": status, "errorMsg": sentence, "error": code})
    return None


def answer_under(scope: Scope, named: str) -> None:
    """Let a refusal of this request have the `logId` that the client gave it."""
    scope[_LOG_ID] = named


def documented(example: dict[str, object]) -> dict[str | int, dict[str, Any]]:
    """How an operation's errors are described, whatever their status."""
    content = {"application/json": {"schema": {"type": "object", "required": list(example)}, "example": example}}
    told = "What is at fault, in one sentence; `error` is a code of the pool's."
    return {"4XX": {"description": told, "content": content}, "5XX": {"description": told, "content": content}}


#: PaddleOCR's refusal, and PaddleX's.
JOB_REFUSAL = {"logId": "0c9e...", "code": 400, "msg": "useDocUnwarping: pages are not unwarped.", "error": "..."}
SERVING_REFUSAL = {"logId": "0c9e...", "errorCode": 422, "errorMsg": "file: not valid base64.", "error": "..."}


def log_id() -> str:
    """Names an answer that is about no job."""
    return str(uuid.uuid4())
