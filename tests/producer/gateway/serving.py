"""A real gateway on a free port, and what plays the worker: the ledger's calls that a worker makes."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

import httpx

from producer.gateway.app import create_app
from producer.gateway.server import GatewayServer
from producer.gateway.state import Gateway
from producer.job import PREPARE, ErrorDetail, JobStatus, PageFailure, PageResult, Span, Timings
from producer.ledger import Claim, Ledger
from producer.producer import Producer
from producer.settings import Settings

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 64
PDF = b"%PDF-1.7\n" + b"\x00" * 64
BROKEN = ErrorDetail(code="corrupt_document", message="The page is damaged.")


class _Announcement(io.StringIO):
    """Tells when the server has said that it listens."""

    def __init__(self) -> None:
        super().__init__()
        self.made = threading.Event()

    def flush(self) -> None:
        self.made.set()


class Served:
    """A gateway that runs in a thread of this process, and a client for it. Use as a context."""

    def __init__(self, settings: Settings, producer: Producer | None = None) -> None:
        self._announcement = _Announcement()
        self._app = create_app(settings, producer)
        self._server = GatewayServer(self._app, settings, self._announcement)
        self._thread = threading.Thread(target=self._server.serve_until_stopped)
        self.url = self._server.url
        self.http = httpx.Client(base_url=self.url, timeout=60)

    @property
    def gateway(self) -> Gateway:
        gateway = self._app.state.gateway
        assert isinstance(gateway, Gateway)
        return gateway

    @property
    def waiting(self) -> int:
        return self.gateway.watcher.waiting

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does."""
        self._server.should_exit = True

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._announcement.made.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


class CountingProducer(Producer):
    """Counts how often a job's status is read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, tenant="")
        self.reads = 0

    def status(self, job_id: str) -> JobStatus:
        self.reads += 1
        return super().status(job_id)


def submit(http: httpx.Client, document: bytes = PNG, **fields: str) -> str:
    """Hand in a document, and return its job's id."""
    answer = http.post("/v1/jobs", files={"file": ("page.png", document)}, data=fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def count_pages(ledger: Ledger, job_id: str, pages: int) -> None:
    """Do what a worker does first with a PDF."""
    claim = ledger.claim(job_id, PREPARE, "test")
    assert isinstance(claim, Claim)
    ledger.plan(claim, claim.job.options.spans(pages, ledger.settings.span_pages))


def read_pages(ledger: Ledger, job_id: str, span: str = "1+1", failing: Collection[int] = ()) -> None:
    """Do what a worker does with a span."""
    claim = ledger.claim(job_id, str(Span.parse(span)), "test")
    assert isinstance(claim, Claim)
    for page in claim.pages:
        ledger.finish_page(claim, PageFailure(page=page, error=BROKEN) if page in failing else page_read(page))
    ledger.release(claim, again=False)


def page_read(page: int) -> PageResult:
    timings = Timings(rasterise_ms=1, detect_ms=2, recognise_ms=3)
    text = f"page {page}: 合计 12.50"
    return PageResult(
        page=page, width=10, height=10, lines=(), text=text, engine="pp-ocr", model="fake", timings=timings
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return once the condition holds; it is about another thread's or process's doing, so it has to be asked for."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        threading.Event().wait(0.005)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is a complete problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:ocrpool:problem:{code}"
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert "Traceback" not in answer.text
    assert ("retry-after" in answer.headers) == problem["retryable"]
    return problem
