"""What the command line prints of results, and the files that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import typer
from rich.console import Console

from producer.cpus import as_ranges
from producer.escaping import escaped, shown_name
from producer.job import JobResult, JobState, JobStatus
from producer.plan import PoolPlan

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


#: Bytes of a file's name (NAME_MAX of Linux' file systems).
NAME_BYTES = 255


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


def content(result: JobResult, format: Format) -> str:
    """The document's text, or its result as one line of JSON."""
    return result.text if format is Format.TEXT else result.model_dump_json()


class OutputFolder:
    """One file a document, named after it. Documents of one run that share a name get a number; old files give way."""

    def __init__(self, folder: Path, format: Format) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._format = format
        self._taken: set[str] = set()

    def write(self, name: str, result: JobResult) -> None:
        suffix = ".txt" if self._format is Format.TEXT else ".json"
        file, number = _file_name(name, suffix), 2
        while file in self._taken:
            file, number = _file_name(name, f".{number}{suffix}"), number + 1
        self._taken.add(file)
        (self._folder / file).write_text(content(result, self._format) + "\n", encoding="utf-8")
        err.print(f"wrote {escaped(str(self._folder / file))}", markup=False)


def _file_name(name: str, suffix: str) -> str:
    """A job's name with a suffix, without folders and cut to what a file system takes."""
    return (shown_name(name) or "document").encode()[: NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def print_result(name: str, result: JobResult, format: Format, *, seconds: float | None = None) -> None:
    """Print to standard output; with `seconds`, text comes below a heading with the document's name, pages and time."""
    headed = seconds is not None and format is Format.TEXT
    if headed:
        out.print(
            f"── {escaped(name)}: {count(len(result.pages), 'page')}, {seconds:.1f} s ──", style="bold", markup=False
        )
    typer.echo(content(result, format) + ("\n" if headed else ""))


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
