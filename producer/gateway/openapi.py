"""What the API's description says beyond the models: request bodies and examples."""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from producer.errors import QuotaExceeded, Unauthorized
from producer.gateway.documents import JobRequest
from producer.gateway.problems import MEDIA_TYPE, Problem, responses
from producer.job import ReadOptions

_JOB_ID = "job_4f1c0d5e8a7b4c2d9e3f60718293a4b5"

STATUS_EXAMPLE: dict[str, Any] = {
    "id": _JOB_ID,
    "name": "invoice.pdf",
    "state": "running",
    "pages_total": 20,
    "pages_done": 7,
    "pages_failed": 0,
    "cached": False,
    "created_at": 1767225600.0,
    "started_at": 1767225600.02,
    "finished_at": None,
    "error": None,
    "queue_position": None,
    "estimated_wait_s": None,
    "batch": None,
    "retry_of": None,
    "retried_by": None,
    "links": {
        "self": f"/v1/jobs/{_JOB_ID}",
        "result": f"/v1/jobs/{_JOB_ID}/result",
        "pages": f"/v1/jobs/{_JOB_ID}/pages",
        "events": f"/v1/jobs/{_JOB_ID}/events",
        "timeline": f"/v1/jobs/{_JOB_ID}/timeline",
    },
}

RESULT_EXAMPLE: dict[str, Any] = {
    "version": 1,
    "id": _JOB_ID,
    "name": "receipt.jpg",
    "state": "succeeded",
    "pages": [
        {
            "kind": "page",
            "page": 1,
            "width": 640,
            "height": 960,
            "angle": 0,
            "lines": [
                {
                    "quad": [[40.0, 32.0], [310.0, 32.0], [310.0, 64.0], [40.0, 64.0]],
                    "text": "TOTAL 12.50",
                    "score": 0.98,
                    "angle": 0,
                }
            ],
            "text": "TOTAL 12.50",
            "engine": "pp-ocr",
            "model": "PP-OCRv6_small",
            "source": "ocr",
            "text_doubt": "",
            "text_agreement": None,
            "cached": False,
            "timings": {"rasterise_ms": 7.1, "detect_ms": 48.0, "recognise_ms": 95.5},
        }
    ],
    "pages_total": 1,
    "error": None,
}


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema with its parts in their places, for a body that is described by hand."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            part = parts.get(str(node.get("$ref", "")).rpartition("/")[2], {})
            return {key: resolved(value) for key, value in {**part, **node}.items() if key != "$ref"}
        return [resolved(one) for one in node] if isinstance(node, list) else node

    return cast(dict[str, Any], resolved(schema))


PAGES_EXAMPLE: dict[str, Any] = {
    "id": _JOB_ID,
    "state": "running",
    "pages": RESULT_EXAMPLE["pages"],
    "next": 1,
    "more": True,
}

TIMELINE_EXAMPLE: dict[str, Any] = {
    "id": _JOB_ID,
    "state": "succeeded",
    "created_at": 1767225600.0,
    "started_at": 1767225600.02,
    "finished_at": 1767225600.42,
    "attempts": [
        {
            "unit": "1+1",
            "worker": "host-4711",
            "device": "cpu",
            "claimed_at": 1767225600.02,
            "ended_at": 1767225600.42,
            "ended": "done",
        }
    ],
    "pages": [
        {
            "page": 1,
            "unit": "1+1",
            "failed": False,
            "at": 1767225600.42,
            "worker": "host-4711",
            "rasterise_ms": 7.1,
            "stages": {
                "detector": [{"batch": 17, "items": 1, "size": 2, "fill": 0.25, "wait_ms": 4.0, "compute_ms": 44.1}]
            },
        }
    ],
    "complete": True,
}


def _form_schema() -> dict[str, Any]:
    options = ReadOptions.model_json_schema()
    return {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "A PDF or an image."},
            "name": {"type": "string", "description": "Shown with the job; without it, the file's name."},
            **options["properties"],
        },
    }


_FORM = {"schema": _form_schema()}
_JSON = {
    "schema": {"$ref": "#/components/schemas/JobRequest"},
    "example": {"document": "JVBERi0xLjcK...", "name": "invoice.pdf", "options": {"lane": "bulk"}},
}

JOB_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM, "application/json": _JSON}}}
OCR_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}}
_FILES = _form_schema()
_FILES["properties"] |= {"file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}}
del _FILES["properties"]["name"]
BATCH_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FILES}}}}


def describe_problems(app: FastAPI) -> None:
    """Add the schemas that responses and bodies refer to by name, and leave out the framework's own error."""
    generated = app.openapi

    def described() -> dict[str, Any]:
        fresh = app.openapi_schema is None
        schema = generated()
        if fresh:
            schemas = schema["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema()
            request = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(request.pop("$defs"), JobRequest=request)
            for operations in schema["paths"].values():
                for operation in operations.values():
                    if "security" in operation:
                        _add_refusals(operation["responses"])
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _add_refusals(documented: dict[str, Any]) -> None:
    """What a route that asks for keys may answer beside its own errors."""
    for status, refusal in responses(Unauthorized, QuotaExceeded).items():
        entry = documented.setdefault(str(status), refusal)
        entry["content"][MEDIA_TYPE]["examples"].update(refusal["content"][MEDIA_TYPE]["examples"])
