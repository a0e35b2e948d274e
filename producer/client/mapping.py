"""Many documents at a time: what came of each, and a bar that shows how many are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from producer.client.calls import Calls, ending
from producer.client.steps import Steps
from producer.documents import Source
from producer.errors import OcrpoolError
from producer.job import JobResult, ReadOptions


@dataclass(frozen=True)
class Outcome:
    """What came of one document: its result, or the error that it has instead, or both where the job ended before all
    of its pages were read."""

    document: Source
    #: None where the document was refused.
    job_id: str | None = None
    result: JobResult | None = None
    error: OcrpoolError | None = None


def check(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError("concurrency: at least 1.")


def outcome(calls: Calls, document: Source, options: ReadOptions | None, timeout_s: float | None) -> Steps[Outcome]:
    """Hand in a document and wait for it; its errors are its own."""
    job_id, end = None, ending(timeout_s)
    try:
        job_id, _ = yield from calls.submit(document, options, None, None, end)
        result = yield from calls.read(job_id, end)
    except OcrpoolError as error:
        return Outcome(document, job_id, error=error)
    return Outcome(document, job_id, result, None if result.error is None else result.error.exception())


@contextmanager
def counting(documents: Iterable[Source], shown: bool | None) -> Iterator[Callable[[Outcome], None]]:
    """Takes the outcomes and shows their number on standard error; where `shown` is None, on a terminal alone."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("Reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (console.is_terminal if shown is None else shown),
    )
    with bar:
        task = bar.add_task("documents", total=len(documents) if isinstance(documents, Sized) else None, failed=0)
        failed = 0

        def count(one: Outcome) -> None:
            nonlocal failed
            failed += one.error is not None
            bar.update(task, advance=1, failed=failed)

        yield count
