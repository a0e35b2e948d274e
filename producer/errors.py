"""Every error of ocrpool, with the code that travels on the wire.

    OcrpoolError
    ├── RequestError                what was asked cannot be answered
    │   ├── InvalidRequest          invalid_request        422
    │   ├── Unauthorized            unauthorized           401
    │   ├── NotFound                not_found              404
    │   ├── UploadTimeout           upload_timeout         408   retryable
    │   ├── NotFinished             not_finished           409   retryable
    │   ├── IdempotencyMismatch     idempotency_mismatch   422
    │   ├── RequestInProgress       request_in_progress    409   retryable
    │   ├── FormatUnavailable       format_unavailable     501
    │   ├── FetchForbidden          fetch_forbidden        422
    │   └── FetchFailed             fetch_failed           422   retryable
    ├── AdmissionError              the pool takes no more now
    │   ├── QueueFull               queue_full             429   retryable
    │   ├── QuotaExceeded           quota_exceeded         429   retryable
    │   └── Unavailable             unavailable            503   retryable
    ├── DocumentError               the bytes are at fault
    │   ├── UnsupportedMediaType    unsupported_media_type 415
    │   ├── TooLarge                too_large              413
    │   ├── TooManyPages            too_many_pages         422
    │   ├── ImageTooLarge           image_too_large        422
    │   ├── CorruptDocument         corrupt_document       422
    │   └── EncryptedDocument       encrypted_document     422
    ├── ProcessingError             a page could not be read
    │   ├── PageTimeout             page_timeout           422
    │   ├── PoisonDocument          poison_document        422
    │   ├── EngineOutOfMemory       engine_out_of_memory   503   retryable
    │   └── Internal                internal               500   retryable
    └── JobEnded                    the job ended before its pages did
        ├── Cancelled               cancelled              409
        └── DeadlineExceeded        deadline_exceeded      504   retryable

An error crosses processes as its code and one clear sentence; `from_code` turns the two back into the class. Nobody
parses the sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar


class OcrpoolError(Exception):
    """Base of every error that ocrpool raises on purpose. `str(error)` is one sentence for the user."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    #: Whether the same request may succeed later without being changed.
    retryable: ClassVar[bool] = False
    #: Seconds after which to try again, where that is known.
    retry_after_s: int | None = None

    def __init__(self, message: str = "", *, retry_after_s: int | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message or (type(self).__doc__ or type(self).__name__).splitlines()[0])


class RequestError(OcrpoolError):
    """The request cannot be answered."""


class InvalidRequest(RequestError):
    """The request is not of the form that the pool takes."""

    code = "invalid_request"
    http_status = 422


class Unauthorized(RequestError):
    """The request carries no valid API key."""

    code = "unauthorized"
    http_status = 401


class NotFound(RequestError):
    """There is no such job, or it is gone."""

    code = "not_found"
    http_status = 404


class UploadTimeout(RequestError):
    """The document came too slowly."""

    code = "upload_timeout"
    http_status = 408
    retryable = True


class NotFinished(RequestError):
    """The job has not finished yet."""

    code = "not_finished"
    http_status = 409
    retryable = True


class IdempotencyMismatch(RequestError):
    """The idempotency key was used with another request."""

    code = "idempotency_mismatch"
    http_status = 422


class RequestInProgress(RequestError):
    """Another request with this idempotency key is being answered."""

    code = "request_in_progress"
    http_status = 409
    retryable = True


class FormatUnavailable(RequestError):
    """The result cannot be had in this format here."""

    code = "format_unavailable"
    http_status = 501


class FetchForbidden(RequestError):
    """The address must not be fetched."""

    code = "fetch_forbidden"
    http_status = 422


class FetchFailed(RequestError):
    """The document could not be fetched."""

    code = "fetch_failed"
    http_status = 422
    retryable = True


class AdmissionError(OcrpoolError):
    """The pool takes no more work now."""

    retryable = True


class QueueFull(AdmissionError):
    """The queue is full."""

    code = "queue_full"
    http_status = 429


class QuotaExceeded(AdmissionError):
    """The tenant's quota is used up."""

    code = "quota_exceeded"
    http_status = 429


class Unavailable(AdmissionError):
    """The pool cannot be reached."""

    code = "unavailable"
    http_status = 503


class DocumentError(OcrpoolError):
    """The document's bytes are at fault; the same bytes fail again."""

    http_status = 422


class UnsupportedMediaType(DocumentError):
    """The bytes are neither a PDF nor an image that the pool reads."""

    code = "unsupported_media_type"
    http_status = 415


class TooLarge(DocumentError):
    """The document has too many bytes."""

    code = "too_large"
    http_status = 413


class TooManyPages(DocumentError):
    """The document has too many pages."""

    code = "too_many_pages"


class ImageTooLarge(DocumentError):
    """The page has too many pixels."""

    code = "image_too_large"


class CorruptDocument(DocumentError):
    """The document is damaged."""

    code = "corrupt_document"


class EncryptedDocument(DocumentError):
    """The document is protected by a password."""

    code = "encrypted_document"


class ProcessingError(OcrpoolError):
    """The page could not be read."""


class PageTimeout(ProcessingError):
    """The page took too long to render."""

    code = "page_timeout"
    http_status = 422


class PoisonDocument(ProcessingError):
    """The page ended every worker that took it."""

    code = "poison_document"
    http_status = 422


class EngineOutOfMemory(ProcessingError):
    """The engine ran out of memory on this page."""

    code = "engine_out_of_memory"
    http_status = 503
    retryable = True


class Internal(ProcessingError):
    """Something went wrong inside the pool."""

    code = "internal"
    retryable = True


class JobEnded(OcrpoolError):
    """The job ended before all of its pages were read."""


class Cancelled(JobEnded):
    """The job was cancelled."""

    code = "cancelled"
    http_status = 409


class DeadlineExceeded(JobEnded):
    """The job's deadline passed."""

    code = "deadline_exceeded"
    http_status = 504
    retryable = True


def _leaves(root: type[OcrpoolError]) -> Iterator[type[OcrpoolError]]:
    below = root.__subclasses__()
    if not below:
        yield root
    for child in below:
        yield from _leaves(child)


#: What a job may end with that has no page which was read.
JOB_ERRORS: tuple[type[OcrpoolError], ...] = (
    CorruptDocument,
    EncryptedDocument,
    TooManyPages,
    ImageTooLarge,
    UnsupportedMediaType,
    FetchFailed,
    PageTimeout,
    PoisonDocument,
    EngineOutOfMemory,
    Cancelled,
    DeadlineExceeded,
)
#: Every code, and the class that raises it.
BY_CODE: dict[str, type[OcrpoolError]] = {leaf.code: leaf for leaf in _leaves(OcrpoolError)}


def from_code(code: str, message: str) -> OcrpoolError:
    """The error that `code` names; `Internal` for a code of a newer version."""
    return BY_CODE.get(code, Internal)(message)


def renamed(sentence: str, names: Mapping[str, str]) -> str:
    """The sentence about a field, with the name that whoever asked has for it."""
    field, colon, rest = sentence.partition(": ")
    return f"{names[field]}: {rest}" if colon and field in names else sentence


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Let an error about an address that was given say in which field it stood."""
    try:
        yield
    except (InvalidRequest, FetchForbidden, FetchFailed, TooLarge) as error:
        raise type(error)(f"{field}: {error}") from error
