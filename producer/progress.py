"""A progress bar by pages, over any number of documents."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from producer.job import JobStatus


class PageProgress:
    """Shows how many pages of the jobs have an outcome. A document whose pages are not counted yet weighs one page."""

    def __init__(self, console: Console, job_ids: Collection[str]) -> None:
        self._pages = dict.fromkeys(job_ids, (0, 1))
        self._bar = Progress(
            TextColumn("Reading"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pages"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("pages", total=len(job_ids))

    def update(self, status: JobStatus) -> None:
        done = status.pages_done + status.pages_failed
        total = status.pages_total or 1
        self._pages[status.id] = (total, total) if status.final else (done, total)
        done, total = (sum(column) for column in zip(*self._pages.values(), strict=True))
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
