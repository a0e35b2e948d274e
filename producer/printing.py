"""What the command line prints of results, and the files that it writes."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

import typer
from rich.console import Console

from producer.cpus import as_ranges
from producer.errors import DocumentError, InvalidRequest
from producer.escaping import escaped
from producer.formats import Format as ResultFormat
from producer.formats import nothing_read
from producer.job import JobResult, JobState, JobStatus
from producer.plan import PoolPlan
from producer.results import Results, file_name, write

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class OutputFolder:
    """One file a document, named after it; as overlay, one a page. Documents of one run that share a name get a
    number; old files give way."""

    def __init__(self, folder: Path, format: ResultFormat, results: Results) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._format = format
        self._results = results
        self._taken: set[str] = set()

    def write(self, result: JobResult) -> bool:
        """Write what was read, if anything was; say what keeps a file from being made, and return whether none did."""
        try:
            for page, source in self._sources(result):
                path = self._folder / self._free(result.name, page)
                write(source, path)
                err.print(f"wrote {escaped(str(path))}", markup=False)
        except DocumentError as error:
            fail(escaped(f"{result.name}: {error} ({error.code})"))
            return False
        return True

    def _sources(self, result: JobResult) -> Iterator[tuple[int | None, IO[bytes]]]:
        if self._format is ResultFormat.OVERLAY:
            for page in result.pages:
                if page.kind == "page":
                    yield page.page, self._results.overlay(result, page.page)
        elif self._format is ResultFormat.PDF and not nothing_read(result):
            yield None, self._results.pdf(result)
        elif self._format is ResultFormat.JSON or not nothing_read(result):
            yield None, io.BytesIO(f"{self._results.text(result, self._format)}\n".encode())

    def _free(self, name: str, page: int | None) -> str:
        """A name that no other file of this run has."""
        file, number = file_name(name, self._format, page), 2
        while file in self._taken:
            file, number = file_name(name, self._format, page, number=number), number + 1
        self._taken.add(file)
        return file


def refuse_to_print(format: ResultFormat, documents: int) -> None:
    """Raise where the format is no text and would go to a terminal, or several would run into each other."""
    if format is ResultFormat.OVERLAY:
        raise InvalidRequest("--format overlay is one picture a page: name a folder for them with --output.")
    if format is ResultFormat.PDF and (documents > 1 or sys.stdout.isatty()):
        raise InvalidRequest("--format pdf is no text to print: name a folder with --output, or redirect one document.")


def print_result(result: JobResult, format: ResultFormat, results: Results, *, seconds: float | None = None) -> None:
    """Print to standard output; with `seconds`, text comes below a heading with the document's name, pages and time."""
    if nothing_read(result) and format is not ResultFormat.JSON:
        return  # `report` tells why.
    if format is ResultFormat.PDF:
        with results.pdf(result) as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        return
    headed = seconds is not None and format in (ResultFormat.TEXT, ResultFormat.MARKDOWN)
    if headed:
        pages = count(len(result.pages), "page")
        out.print(f"── {escaped(result.name)}: {pages}, {seconds:.1f} s ──", style="bold", markup=False)
    typer.echo(results.text(result, format) + ("\n" if headed else ""))


def report(name: str, result: JobResult) -> bool:
    """Say on standard error what could not be read; True if everything was."""
    failures = [page for page in result.pages if page.kind == "failure"]
    if result.error is not None and not failures:
        fail(escaped(f"{name}: {result.error.message} ({result.error.code})"))
    for page in failures:
        fail(escaped(f"{name}, page {page.page}: {page.error.message} ({page.error.code})"))
    return result.state is JobState.SUCCEEDED


def fail(message: str) -> None:
    """Print an error, which may have several lines, to standard error."""
    err.print("error: " + "\n".join(map(escaped, message.splitlines())), markup=False)


def print_status(status: JobStatus, format: Format) -> None:
    if format is Format.JSON:
        typer.echo(status.model_dump_json())
        return
    pages = f"{status.pages_done + status.pages_failed} of {status.pages_total or '?'} pages"
    failed = f", {status.pages_failed} failed" if status.pages_failed else ""
    reason = f": {escaped(status.error.message)}" if status.error else ""
    out.print(f"{status.id}  {status.state.value}  {pages}{failed}{reason}", markup=False)


def print_plan(plan: PoolPlan, console: Console) -> None:
    """A line for each worker: where it runs, and with how much."""
    heading = ("worker", "card", "CPUs", "threads", "decoders", "metrics port")
    rows = [
        (
            worker.name,
            str(worker.card or "none"),
            as_ranges(worker.cpus),
            str(worker.threads),
            str(worker.decoders),
            str(worker.metrics_port or "a free one"),
        )
        for worker in plan.workers
    ]
    for line in aligned([heading, *rows]):
        console.print(line, markup=False)
    if plan.reason:
        console.print(f"No card is used: {plan.reason}.", markup=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
