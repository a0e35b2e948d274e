"""What crosses a process: the job, its messages and its results. Versioned pydantic models, JSON on the wire."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from producer import page_ranges
from producer.errors import InvalidRequest, OcrpoolError, from_code
from producer.escaping import NAME_CHARS

#: The version of every record and message below. A worker refuses a message of another version.
CONTRACT_VERSION: Final = 1

#: Whose a job is; empty without API keys.
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$|^$")]
#: A batch's name, the pool's own or a client's.
BATCH_NAME = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,63}")
#: How the address of a document begins that the pool fetches itself.
ADDRESS = re.compile(r"^([hH][tT][tT][pP][sS]?|s3)://")
BatchId = Annotated[str, StringConstraints(pattern=rf"^{BATCH_NAME.pattern}$")]
JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{32}$")]


def new_job_id() -> JobId:
    """A job's name: 128 random bits, so that nobody guesses another's."""
    return f"job_{secrets.token_hex(16)}"


def new_batch_id() -> BatchId:
    """A batch's name, as hard to guess as a job's."""
    return f"batch_{secrets.token_hex(16)}"


def batch_id_of(key: str) -> BatchId:
    """The name of the batch that came under an idempotency key of that name."""
    return f"batch_{key[:32]}"


class Contract(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobState(StrEnum):
    """Where a job is. The last five are final, and final is final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Lane(StrEnum):
    """The class of queue that a job travels in."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    #: Pages that were held by workers that died, one by one.
    QUARANTINE = "quarantine"


class MediaType(StrEnum):
    """The document types that the pool reads, told by their first bytes."""

    PDF = "application/pdf"
    PNG = "image/png"
    JPEG = "image/jpeg"
    TIFF = "image/tiff"
    WEBP = "image/webp"
    BMP = "image/bmp"
    GIF = "image/gif"

    @property
    def single_page(self) -> bool:
        return self not in (MediaType.PDF, MediaType.TIFF)

    @property
    def pages(self) -> int | None:
        """How many a document of the type has; None where they have to be counted."""
        return 1 if self.single_page else None


class ReadOptions(Contract):
    """What a producer may choose for one job."""

    engine: Literal["pp-ocr"] = Field("pp-ocr", description="Which engine reads the pages.")
    orientation: bool = Field(False, description="Turn text lines that stand upside down.")
    min_score: float = Field(0.5, ge=0.0, le=1.0, description="Lines that the recogniser trusts less are left out.")
    detector_threshold: float = Field(
        0.3, ge=0.0, le=1.0, description="A pixel belongs to text above this probability."
    )
    detector_box_threshold: float = Field(
        0.4, ge=0.0, le=1.0, description="A line is kept if its pixels' mean probability reaches this."
    )
    detector_unclip_ratio: float = Field(
        1.6,
        gt=0.0,
        le=5.0,
        description="The detector sees lines shrunk: they grow by area x ratio / perimeter on each side.",
    )
    detector_side_px: int | None = Field(
        None, ge=32, le=4096, description="Limit of a side of the page as the detector sees it, in pixels."
    )
    detector_side: Literal["max", "min"] = Field(
        "max",
        description="Whether its longer side has at most so many pixels, or its shorter one at least, as far as the "
        "detector's shapes reach.",
    )
    visualize: bool = Field(True, description="Whether PaddleOCR's results name a picture of each page with its lines.")
    lane: Literal[Lane.INTERACTIVE, Lane.BULK] = Field(Lane.INTERACTIVE, description="interactive or bulk.")
    deadline_s: float | None = Field(
        None, gt=0, le=7 * 86_400, description="The job expires this many seconds after submission."
    )
    webhook_url: str | None = Field(
        None,
        max_length=2048,
        pattern=r"^https?://[^/?#\s]+[^\s]*$",
        description="Where a signed webhook tells that the job has ended (https://www.standardwebhooks.com).",
    )
    pages: Annotated[str, AfterValidator(page_ranges.normal)] = Field(
        "",
        max_length=page_ranges.MOST_CHARS,
        description="Which pages are read, such as 2,4-6; those that the document has not are left out. Empty: all.",
        examples=["2,4-6"],
    )
    pdf_text: Literal["ocr", "auto", "verify"] = Field(
        "ocr",
        description="What becomes of a PDF page's own text. ocr: nothing; auto: it is the result where it is sound; "
        "verify: it is compared with what is read.",
    )

    cache: bool = Field(
        True, description="Whether what was read of the same document or page a while ago will do, or all is read anew."
    )

    def spans(self, document_pages: int, span_pages: int) -> list[Span]:
        """What is read of a document with so many pages, in spans of at most `span_pages`.

        Raises:
            InvalidRequest: it has none of the pages that were asked for.
        """
        runs = page_ranges.up_to(self.pages, document_pages)
        if not runs:
            raise InvalidRequest(f"pages: the document has {document_pages}, and none of {self.pages}.")
        return [
            Span(first=first, count=min(span_pages, run.stop - first))
            for run in runs
            for first in range(run.start, run.stop, span_pages)
        ]


class ErrorDetail(Contract):
    """An error on the wire: its code (`producer.errors`) and one sentence."""

    code: str
    message: str

    @classmethod
    def of(cls, error: OcrpoolError) -> ErrorDetail:
        return cls(code=error.code, message=str(error))

    def exception(self) -> OcrpoolError:
        return from_code(self.code, self.message)


class Job(Contract):
    """One accepted document: what never changes about it."""

    version: Literal[1] = CONTRACT_VERSION
    id: JobId
    #: Where the document's bytes lie in the blob store.
    blob: str
    media_type: MediaType
    size_bytes: int = Field(ge=1)
    #: The name that the producer gave; shown, never used as a path.
    name: str = Field("", max_length=NAME_CHARS)
    options: ReadOptions = ReadOptions()
    #: Nobody else sees it.
    tenant: Tenant = ""
    #: The group of jobs that it was handed in with.
    batch: BatchId | None = None
    #: The final job whose document it reads again.
    retry_of: JobId | None = None


class Span(Contract):
    """Consecutive pages of one job that travel as one message. Pages count from 1."""

    first: int = Field(ge=1)
    count: int = Field(ge=1)

    @property
    def pages(self) -> range:
        return range(self.first, self.first + self.count)

    def __str__(self) -> str:
        return f"{self.first}+{self.count}"

    @classmethod
    def parse(cls, text: str) -> Span:
        first, count = text.split("+")
        return cls(first=int(first), count=int(count))


#: The unit that counts a document's pages; every other unit is a span.
PREPARE = "prepare"

#: A unit of work as the queue carries it: job id, unit, lane.
Unit = tuple[str, str, str]


class PrepareMessage(Contract):
    """Asks a worker to count a document's pages."""

    version: Literal[1] = CONTRACT_VERSION
    job_id: JobId


class SpanMessage(Contract):
    """Asks a worker to read a span."""

    version: Literal[1] = CONTRACT_VERSION
    job_id: JobId
    span: Span


Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]


class Line(Contract):
    """One line of text. The quad's corners run clockwise from the text's top left, in pixels of the upright page."""

    quad: Quad
    text: str
    #: The recogniser's mean confidence, 0 to 1; 1 where the text is the PDF's own.
    score: float = Field(ge=0.0, le=1.0)
    #: How the crop was turned before it was read, in degrees: 0 or 180.
    angle: Literal[0, 180] = 0


class Timings(Contract):
    """Where a page's time went, in milliseconds of wall time; each stage includes the wait for its batch.

    What is done about a PDF page's own text counts as `rasterise_ms`, which is all where that text is the result.
    """

    rasterise_ms: float = Field(ge=0)
    detect_ms: float = Field(ge=0)
    recognise_ms: float = Field(ge=0)


#: What speaks against a PDF page's own text, and nothing: `worker.decoding.texts` has the rules.
TextDoubt = Literal[
    "",
    "few_characters",
    "unmapped",
    "gibberish",
    "outside",
    "slanted",
    "scattered",
    "overlapping",
    "hidden",
    "more_drawn",
    "too_long",
    "too_complex",
    "unreadable",
]


class PageResult(Contract):
    """One page that was read."""

    kind: Literal["page"] = "page"
    page: int = Field(ge=1)
    #: Size of the upright page as it was read, in pixels.
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    #: How the stored page was turned to stand upright, in degrees clockwise.
    angle: Literal[0, 90, 180, 270] = 0
    #: In reading order.
    lines: tuple[Line, ...]
    #: The page's text: one row a line, in reading order.
    text: str
    engine: str
    #: Names the models, their files and the runtime that read the page.
    model: str
    #: Whether the page was read from its picture, or its text is that of the PDF; `engine` and `model` say by what.
    source: Literal["ocr", "pdf"] = "ocr"
    #: Why a PDF page's own text was not taken or would not be, where `pdf_text` asked for it.
    text_doubt: TextDoubt = ""
    #: With `pdf_text=verify`, how far the page's own text is what was read: 0 to 1. None: it has none.
    text_agreement: float | None = Field(None, ge=0.0, le=1.0)
    #: Whether it was read for an earlier job, or for another at the same time; the timings are this job's own.
    cached: bool = False
    timings: Timings


class PageFailure(Contract):
    """One page that could not be read."""

    kind: Literal["failure"] = "failure"
    page: int = Field(ge=1)
    error: ErrorDetail


PageOutcome = Annotated[PageResult | PageFailure, Field(discriminator="kind")]


class JobStatus(Contract):
    """Where a job stands. Times are seconds since the epoch by the Redis server's clock."""

    id: JobId
    name: str = ""
    state: JobState
    #: How many are read, all or those of `pages`. None until the document's pages are counted.
    pages_total: int | None = None
    pages_done: int = 0
    pages_failed: int = 0
    #: Whether its pages are those of another job with the same document.
    cached: bool = False
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    #: Why the job as a whole failed, expired or was cancelled.
    error: ErrorDetail | None = None
    #: Of a queued job: how many spans of pages are before it in its lane. None where that is not looked up.
    queue_position: int | None = None
    #: About how long it will wait, by how fast the lane's queue moved lately. None while that is not known.
    estimated_wait_s: float | None = None
    #: The group of jobs that it was handed in with.
    batch: BatchId | None = None
    #: The job whose unread pages this one reads again, and the one that does so with this one's.
    retry_of: JobId | None = None
    retried_by: JobId | None = None

    @property
    def final(self) -> bool:
        return self.state.final


class JobResult(Contract):
    """A final job with every page's outcome, in page order."""

    version: Literal[1] = CONTRACT_VERSION
    id: JobId
    name: str = ""
    state: JobState
    #: Those that came to an outcome: a job that was cancelled or expired has fewer than were to be read.
    pages: tuple[PageOutcome, ...]
    #: How many were to be read. None if the document's pages were not counted.
    pages_total: int | None = None
    error: ErrorDetail | None = None

    @property
    def text(self) -> str:
        """The text of all pages that were read, a blank line between pages."""
        return "\n\n".join(page.text for page in self.pages if isinstance(page, PageResult))


class ResultLink(Contract):
    """An address at which anybody may read a result, without a key, until it expires."""

    url: str = Field(examples=["https://files.example.com/scans/job_..._pdf?X-Amz-Signature=..."])
    #: Seconds since the epoch.
    expires_at: float = Field(examples=[1767229200.0])


class PagesRead(Contract):
    """A part of a job's outcomes, in the order in which they came, whether the job has ended or not."""

    id: JobId
    state: JobState
    pages: tuple[PageOutcome, ...]
    #: Goes on behind these: the outcomes that have been passed over and told so far.
    next: int
    #: Whether there are more, or will be: the job has not ended.
    more: bool


class JobList(Contract):
    """Jobs, the last accepted first."""

    jobs: tuple[JobStatus, ...]
    #: Asks for those before these; None at the end.
    cursor: str | None = None


def to_json(model: BaseModel) -> dict[str, Any]:
    """The model as JSON-ready values."""
    return model.model_dump(mode="json")
