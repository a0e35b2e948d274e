"""A job's result in each of its formats, and as files."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote

from producer.blobs import LONGEST_LINK_S, BlobStore
from producer.errors import FormatUnavailable, InvalidRequest, NotFound
from producer.escaping import shown_name
from producer.exporting import Exporter
from producer.formats import Format, render
from producer.job import JobResult, JobStatus, PageFailure, ResultLink
from producer.ledger import Ledger
from producer.records import unfinished
from producer.settings import Settings

#: Formats that a browser saves instead of showing them.
_SAVED = (Format.PDF, Format.HOCR)
COPY_BYTES = 1 << 20
#: Longest name of a file, less what `write` puts around it.
NAME_BYTES = 240


class Results:
    """What a pool has read, in any format. Thread-safe.

    Every method takes the result of a final job, and raises `NotFound` once the job is gone.
    """

    def __init__(self, settings: Settings, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._longest_link_s = min(settings.signed_url_ttl_s, LONGEST_LINK_S)
        self._exporter = Exporter(settings)

    def text(self, result: JobResult, format: Format) -> str:
        """The result in a format that is text. Raises the job's own error where no page was read, except as JSON."""
        if format is Format.JSON:  # what most ask for, and the record need not be read for it
            return result.model_dump_json()
        return render(result, format, self._ledger.job(result.id))

    def pdf(self, result: JobResult) -> IO[bytes]:
        """The document as a searchable PDF, in a file to be closed. Raises as `Exporter.searchable_pdf` does."""
        job = self._ledger.job(result.id)
        with self._blobs.local(job.blob) as document:
            return self._exporter.searchable_pdf(document, job, result)

    def overlay(self, result: JobResult, page: int) -> IO[bytes]:
        """A page with the quads of its lines, as PNG, in a file to be closed.

        Raises:
            NotFound: the result has no such page.
            OcrpoolError: the page's own error, where it failed; else as `Exporter.overlay`.
        """
        found = next((one for one in result.pages if one.page == page), None)
        if found is None:
            raise NotFound(f"The result has no page {page}.")
        if isinstance(found, PageFailure):
            raise found.error.exception()
        job = self._ledger.job(result.id)
        with self._blobs.local(job.blob) as document:
            return self._exporter.overlay(document, job, found)

    def link(
        self, job: JobStatus, format: Format | str, ttl_s: float | None, read: Callable[[], JobResult]
    ) -> ResultLink:
        """An address of the job's result at the blob store, for so many seconds if that is not longer than the settings
        say, or the result is kept. `read` gives the result, which is made in the format and stored once.

        Raises:
            InvalidRequest: an overlay is of one page.
            NotFinished: the job has not ended.
            FormatUnavailable: the store has no addresses, or the format cannot be made here.
            OcrpoolError: what `read`, and `text` or `pdf`, raise.
        """
        format = Format.named(format)
        if format is Format.OVERLAY:
            raise InvalidRequest("An overlay is a picture of one page: it has no address of its own.")
        if not job.final:
            raise unfinished(job.state)
        blob = f"{job.id}_{format}"
        if self._blobs.link(blob, 1) is None:
            raise FormatUnavailable(
                "Results have addresses of their own where OCRPOOL_BLOB_URL names an S3 bucket, not a folder as here."
            )
        kept_s, is_there = self._ledger.expect_derived(job.id, blob)
        if not is_there:
            self._store(blob, read(), format)
            self._ledger.keep_derived(job.id, blob)
        asked_s = self._longest_link_s if ttl_s is None else min(ttl_s, self._longest_link_s)
        now, whole_s = int(time.time()), max(1, int(min(asked_s, kept_s)))
        media_type = format.media_type
        url = self._blobs.link(
            blob,
            whole_s,
            media_type=f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
            disposition=disposition(job.name, format),
        )
        assert url is not None
        return ResultLink(url=url, expires_at=now + whole_s)

    def _store(self, blob: str, result: JobResult, format: Format) -> None:
        if format is Format.PDF:
            with self.pdf(result) as file:
                self._blobs.put(blob, file)
        else:
            self._blobs.put(blob, self.text(result, format).encode())


class Saves(Protocol):
    """Something whose finished result goes into files, by four methods that follow from two.

    A path that is a folder gets a file named after the document; any other is the file, which gives way.
    """

    def fetch(self, format: Format | str, page: int | None = None) -> IO[bytes]:
        """The result in a format, as a file to be closed; an overlay is of one page."""
        ...

    def result(self) -> JobResult: ...

    def save_to_json(self, path: Path | str) -> Path:
        return self.save(path, Format.JSON)

    def save_to_markdown(self, path: Path | str) -> Path:
        return self.save(path, Format.MARKDOWN)

    def save_to_pdf(self, path: Path | str) -> Path:
        return self.save(path, Format.PDF)

    def save_to_img(self, folder: Path | str) -> list[Path]:
        """Write an overlay of each page that was read into the folder, which is made."""
        result = self.result()
        Path(folder).mkdir(parents=True, exist_ok=True)
        pages = [page.page for page in result.pages if page.kind == "page"]
        paths = [Path(folder) / file_name(result.name, Format.OVERLAY, page) for page in pages]
        for page, path in zip(pages, paths, strict=True):
            write(self.fetch(Format.OVERLAY, page), path)
        return paths

    def save(self, path: Path | str, format: Format | str) -> Path:
        """Write the result in any format but the overlay, and return the file's path."""
        format = Format.named(format)
        if format is Format.OVERLAY:
            raise InvalidRequest("An overlay is a picture of one page: use save_to_img.")
        path = Path(path)
        if path.is_dir():
            path /= file_name(self.result().name, format)
        write(self.fetch(format), path)
        return path


def file_name(name: str, format: Format, page: int | None = None, *, number: int = 1) -> str:
    """The name of a document's result file, without folders and cut to what a file system takes: `report.pdf.md`,
    `report.pdf.page-3.overlay.png`; `number` tells files of one name from each other."""
    parts = ["" if page is None else f".page-{page}", "" if number == 1 else f".{number}", f".{format.suffix}"]
    suffix = "".join(parts)
    return (shown_name(name) or "document").encode()[: NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def disposition(name: str, format: Format, page: int | None = None) -> str:
    """What a browser is to do with a result, and what to call it as a file (RFC 6266), in ASCII and as it is."""
    named = file_name(name, format, page)
    plain = re.sub(r"[^ !#-~]|[?*:<>|\\\\]", "_", named)
    how = "attachment" if format in _SAVED else "inline"
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(named, safe='')}"


def write(source: IO[bytes], path: Path) -> None:
    """Copy an open file to the path, and close it. What stood there before stays until all is there."""
    with source, _replacing(path) as file:
        shutil.copyfileobj(source, file, COPY_BYTES)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
