"""A job's result in each of its formats, and as files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from producer.blobs import BlobStore
from producer.errors import InvalidRequest, NotFound
from producer.escaping import shown_name
from producer.exporting import Exporter
from producer.formats import Format, render
from producer.job import JobResult, PageFailure
from producer.ledger import Ledger
from producer.settings import Settings

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


class Saves(Protocol):
    """Something whose finished result goes into files, by four methods that follow from two.

    A path that is a folder gets a file named after the document; any other is the file, which gives way.
    """

    def fetch(self, format: Format, page: int | None = None) -> IO[bytes]:
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

    def save(self, path: Path | str, format: Format) -> Path:
        """Write the result in any format but the overlay, and return the file's path."""
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
