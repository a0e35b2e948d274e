"""The formats that are made of a document's bytes: searchable PDF and overlay, each by a child process behind walls.

The bytes are not looked at here: they go to the child as an open descriptor, and what it makes comes back in a file
without a name. The child is a module of `worker`, started by name, as its libraries may not be on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from producer.errors import (
    CorruptDocument,
    FetchFailed,
    FormatUnavailable,
    Internal,
    NotFound,
    PageTimeout,
    Unavailable,
    from_code,
)
from producer.formats import Format, raise_without_pages
from producer.formats.layout import advance, reading_quad
from producer.job import Contract, Job, JobResult, PageOutcome, PageResult
from producer.settings import DECODER_LIMITS, Settings

REPLY_BYTES: Final = 1 << 16
#: Added to the child's own limit of time: what it takes to start, and to end.
GRACE_S: Final = 20.0
#: How the child ends where a library is missing (EX_UNAVAILABLE of sysexits.h).
NO_LIBRARIES: Final = 69

#: Where the child imports from: where this process does, but never a working directory.
_IMPORT_PATH = json.dumps([*filter(os.path.isabs, sys.path), str(Path(__file__).parents[1])])
#: Isolated mode: neither the environment nor the working directory choose what the child imports.
_COMMAND = (
    sys.executable,
    "-I",
    "-B",
    "-c",
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "try:\n"
    "    from worker.exporting.child import main\n"
    "except ImportError:\n"
    f"    sys.exit({NO_LIBRARIES})\n"
    "main(sys.argv[2:])",
    _IMPORT_PATH,
)
#: One thread, and none of this process's secrets.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
_INHERITED = ("PATH", "LD_LIBRARY_PATH")


class _Done(Contract):
    kind: Literal["done"]


class _Refused(Contract):
    kind: Literal["refusal"]
    code: str = Field(max_length=64)
    message: str = Field(max_length=500)


_REPLY: TypeAdapter[_Done | _Refused] = TypeAdapter(Annotated[_Done | _Refused, Field(discriminator="kind")])


class Exporter:
    """Makes files of documents and their results. Thread-safe; each call runs a child for as long as it takes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def searchable_pdf(self, document: Path, job: Job, result: JobResult) -> IO[bytes]:
        """The document as a PDF with its text, invisible, where it was read. A PDF keeps its pages.

        The file has no name, stands at its start, and is the caller's to close.

        Raises:
            DocumentError: the document cannot be opened or rewritten; `TooLarge` for a file beyond the setting.
            PageTimeout: it took longer than the setting allows.
            FormatUnavailable: a library is missing here.
            OcrpoolError: the job's own error, where no page was read.
            Unavailable, FetchFailed, Internal
        """
        raise_without_pages(result)
        return self._make(Format.PDF, document, job, result.pages)

    def overlay(self, document: Path, job: Job, page: PageResult) -> IO[bytes]:
        """One page as PNG, in the size that it was read in, with the quads of its lines numbered in reading order.

        Raises as `searchable_pdf` does.
        """
        return self._make(Format.OVERLAY, document, job, [page])

    def _make(self, format: Format, document: Path, job: Job, pages: Sequence[PageOutcome]) -> IO[bytes]:
        request = {
            "format": format,
            "media_type": job.media_type,
            "pages": [_page(page) for page in pages],
            "widths": _widths(pages),
            "limits": self._settings.model_dump(include=DECODER_LIMITS),
            "timeout_s": self._settings.export_timeout_s,
            "max_bytes": self._settings.export_bytes,
        }
        with ExitStack() as unfinished:
            with _opened(document) as source, _room(), tempfile.TemporaryFile() as asked:
                asked.write(json.dumps(request).encode())
                asked.seek(0)
                made = unfinished.enter_context(tempfile.TemporaryFile())
                self._ask(source, asked, made)
                made.seek(0)
            unfinished.pop_all()
            return made

    def _ask(self, source: IO[bytes], asked: IO[bytes], made: IO[bytes]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                given = (theirs.fileno(), source.fileno(), made.fileno())
                child = subprocess.Popen(
                    [*_COMMAND, str(os.getpid()), *map(str, given)],
                    pass_fds=given,
                    env=_ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ},
                    stdin=asked,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            with child:
                try:
                    reply = self._receive(ours)
                    returncode = None if reply else child.wait(GRACE_S)
                finally:
                    child.kill()
        _check(reply, returncode, self._too_slow())

    def _receive(self, ours: socket.socket) -> bytes:
        ours.settimeout(self._settings.export_timeout_s + GRACE_S)
        try:
            return ours.recv(REPLY_BYTES)
        except TimeoutError:
            raise self._too_slow() from None

    def _too_slow(self) -> PageTimeout:
        return PageTimeout(f"The file was not made within {self._settings.export_timeout_s:g} s.")


def _check(reply: bytes, returncode: int | None, too_slow: PageTimeout) -> None:
    """Raise what the child's answer, or its end without one, means."""
    if returncode == NO_LIBRARIES:
        raise FormatUnavailable("This machine cannot make PDFs or pictures: install ocrpool with the extra `worker`.")
    if returncode == -signal.SIGXCPU:
        raise too_slow
    if returncode == -signal.SIGKILL:
        raise Internal("The export was killed from outside.")
    try:
        answer = _REPLY.validate_json(reply)
    except ValidationError:
        raise CorruptDocument("The document crashed the export.") from None
    if isinstance(answer, _Refused):
        raise from_code(answer.code, answer.message)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The file cannot be made now: {error.strerror}.") from error


@contextmanager
def _opened(document: Path) -> Iterator[IO[bytes]]:
    try:
        source = document.open("rb", buffering=0)
    except FileNotFoundError:
        raise NotFound("The document is gone from the blob store.") from None
    except OSError as error:
        raise FetchFailed(f"The document could not be opened: {error.strerror}.") from None
    with source:
        yield source


def _page(page: PageOutcome) -> dict[str, Any]:
    if not isinstance(page, PageResult):
        return {"page": page.page, "width": 0, "height": 0, "lines": [], "error": page.error.message}
    lines = [{"text": line.text, "quad": reading_quad(line)} for line in page.lines]
    return {"page": page.page, "width": page.width, "height": page.height, "lines": lines, "error": ""}


def _widths(pages: Sequence[PageOutcome]) -> dict[str, int]:
    letters = {letter for page in pages if isinstance(page, PageResult) for line in page.lines for letter in line.text}
    return {letter: advance(letter) for letter in sorted({" ", *letters})}
