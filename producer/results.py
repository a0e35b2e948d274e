"""A job's result in each of its formats, and as files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from producer.blobs import BlobStore
from producer.errors import InvalidRequest, NotFound
from producer.exporting import Exporter
from producer.formats import Format, render
from producer.job import PageFailure, PageResult
from producer.ledger import Ledger
from producer.settings import Settings

COPY_BYTES = 1 << 20


class Results:
    """What a pool has read, in any format. Thread-safe.

    Every method raises `NotFound`, and `NotFinished` before the job is final.
    """

    def __init__(self, settings: Settings, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._exporter = Exporter(settings)

    def text(self, job_id: str, format: Format) -> str:
        """The result in a format that is text. Raises the job's own error where no page was read, except as JSON."""
        return render(self._ledger.result(job_id), format, self._ledger.job(job_id))

    def pdf(self, job_id: str) -> IO[bytes]:
        """The document as a searchable PDF, in a file to be closed. Raises as `Exporter.searchable_pdf` does."""
        result, job = self._ledger.result(job_id), self._ledger.job(job_id)
        with self._blobs.local(job.blob) as document:
            return self._exporter.searchable_pdf(document, job, result)

    def overlay(self, job_id: str, page: int) -> IO[bytes]:
        """A page with the quads of its lines, as PNG, in a file to be closed.

        Raises:
            NotFound: the document has no such page, or it was not read.
            OcrpoolError: the page's own error, where it failed; else as `Exporter.overlay`.
        """
        result, job = self._ledger.result(job_id), self._ledger.job(job_id)
        found = next((one for one in result.pages if one.page == page), None)
        if found is None:
            raise NotFound(f"The result has no page {page}.")
        if isinstance(found, PageFailure):
            raise found.error.exception()
        with self._blobs.local(job.blob) as document:
            return self._exporter.overlay(document, job, found)

    def pages(self, job_id: str) -> list[int]:
        """The numbers of the pages that were read."""
        return [page.page for page in self._ledger.result(job_id).pages if isinstance(page, PageResult)]


class Saves(Protocol):
    """Something whose finished result goes into files, by four methods that follow from two.

    A path that is a folder gets a file named after the document; any other is the file, which gives way.
    """

    def fetch(self, format: Format, page: int | None = None) -> IO[bytes]:
        """The result in a format, as a file to be closed; an overlay is of one page."""
        ...

    def saved_pages(self) -> tuple[str, list[int]]:
        """The document's name, and the numbers of the pages that were read."""
        ...

    def save_to_json(self, path: Path | str) -> Path:
        return self.save(path, Format.JSON)

    def save_to_markdown(self, path: Path | str) -> Path:
        return self.save(path, Format.MARKDOWN)

    def save_to_pdf(self, path: Path | str) -> Path:
        return self.save(path, Format.PDF)

    def save_to_img(self, folder: Path | str) -> list[Path]:
        """Write an overlay of each page that was read into the folder, which is made."""
        name, pages = self.saved_pages()
        Path(folder).mkdir(parents=True, exist_ok=True)
        paths = [Path(folder) / file_name(name, Format.OVERLAY, page) for page in pages]
        for page, path in zip(pages, paths, strict=True):
            write(self.fetch(Format.OVERLAY, page), path)
        return paths

    def save(self, path: Path | str, format: Format) -> Path:
        """Write the result in any format but the overlay, and return the file's path."""
        if format is Format.OVERLAY:
            raise InvalidRequest("An overlay is a picture of one page: use save_to_img.")
        path = Path(path)
        if path.is_dir():
            path /= file_name(self.saved_pages()[0], format)
        write(self.fetch(format), path)
        return path


def file_name(name: str, format: Format, page: int | None = None) -> str:
    """The name of a document's result file, without folders: `report.pdf.md`, `report.pdf.page-3.overlay.png`."""
    safe = "".join(char for char in name if char.isprintable() and char not in '/\\"<>:|?*').strip(" .")
    number = "" if page is None else f"page-{page}."
    return f"{safe[:200] or 'document'}.{number}{format.suffix}"


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
