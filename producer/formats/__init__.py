"""The forms that a result takes: pure functions from its record to text.

Two more need the document's bytes and are made elsewhere, by `producer.exporting`: the searchable PDF and the overlay.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType

from producer.errors import InvalidRequest
from producer.formats import hocr, markdown, paddlex
from producer.job import Job, JobResult


class Format(StrEnum):
    """What a result can be asked for as."""

    JSON = "json"
    JSONL = "jsonl"
    PADDLEX = "paddlex"
    TEXT = "text"
    MARKDOWN = "markdown"
    HOCR = "hocr"
    PDF = "pdf"
    #: One PNG a page.
    OVERLAY = "overlay"

    @classmethod
    def named(cls, name: Format | str) -> Format:
        """Raises `InvalidRequest` if there is none of this name."""
        try:
            return cls(name)
        except ValueError as error:
            raise InvalidRequest(f"format: one of {', '.join(cls)}.") from error

    @property
    def media_type(self) -> str:
        return _KINDS[self][0]

    @property
    def suffix(self) -> str:
        """How the name of a file of this format ends, without the dot."""
        return _KINDS[self][1]

    @property
    def needs_document(self) -> bool:
        """Whether it is made of the document's bytes as well as of the result."""
        return self in (Format.PDF, Format.OVERLAY)


_KINDS = MappingProxyType(
    {
        Format.JSON: ("application/json", "json"),
        Format.JSONL: ("application/x-ndjson", "jsonl"),
        Format.PADDLEX: ("application/json", "paddlex.json"),
        Format.TEXT: ("text/plain", "txt"),
        Format.MARKDOWN: ("text/markdown", "md"),
        Format.HOCR: ("text/vnd.hocr+html", "hocr"),
        Format.PDF: ("application/pdf", "searchable.pdf"),
        Format.OVERLAY: ("image/png", "overlay.png"),
    }
)


def _json(result: JobResult, job: Job) -> str:
    return result.model_dump_json()


def _json_lines(result: JobResult, job: Job) -> str:
    """One page's outcome a line, as `PageOutcome` has it."""
    return "\n".join(page.model_dump_json() for page in result.pages)


def _text(result: JobResult, job: Job) -> str:
    return result.text


_RENDERERS: MappingProxyType[Format, Callable[[JobResult, Job], str]] = MappingProxyType(
    {
        Format.JSON: _json,
        Format.JSONL: _json_lines,
        Format.PADDLEX: paddlex.render,
        Format.TEXT: _text,
        Format.MARKDOWN: markdown.render,
        Format.HOCR: hocr.render,
    }
)


def render(result: JobResult, format: Format, job: Job) -> str:
    """The final job's pages as text. The formats that need the document as well are a `KeyError`.

    Raises:
        OcrpoolError: the job's own error, where no page was read; as JSON, the result tells of it instead.
    """
    if format is not Format.JSON:
        raise_without_pages(result)
    return _RENDERERS[format](result, job)


def raise_without_pages(result: JobResult) -> None:
    """Raise the error of a job none of whose pages was read: a failure is never an empty document."""
    if result.error is not None and nothing_read(result):
        raise result.error.exception()


def nothing_read(result: JobResult) -> bool:
    """Whether the job failed without any page that was read."""
    return result.error is not None and pages_read(result) == 0


def pages_read(result: JobResult) -> int:
    return sum(page.kind == "page" for page in result.pages)


def pages_missing(result: JobResult) -> int:
    """The pages that were to be read and were not: they failed, or the job ended before."""
    return (result.pages_total or len(result.pages)) - pages_read(result)
