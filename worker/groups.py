"""Items handed in together, with one future for all of their answers: a page's lines cost one lock, not one each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from producer.errors import Cancelled, DeadlineExceeded, Internal
from worker.records import BatchRecord

Out = TypeVar("Out")

#: The records of a group's batches, with the items that each had of it.
Batches = list[tuple[BatchRecord, int]]


class Group(Generic[Out]):
    """The answers of items that were handed in together. Not thread-safe: the batcher's lock guards what counts.

    The future resolves once, when the last item has: with the answers in the order of the items, or with the error of
    the first item, in that order, that has one. `alone`: it resolves with the one item's answer itself.
    """

    __slots__ = (
        "_alone",
        "_answers",
        "_begun",
        "_cancelled",
        "_error",
        "_failed_at",
        "_open",
        "_withdrawn",
        "batches",
        "bulk_before",
        "deadline",
        "future",
        "number",
        "submitted_at",
        "urgent",
    )

    def __init__(
        self,
        size: int,
        *,
        urgent: bool = True,
        deadline: float | None = None,
        cancelled: Callable[[], bool] | None = None,
        alone: bool = False,
        batches: Batches | None = None,
    ) -> None:
        self.future: Future[Any] = Future()
        self.urgent = urgent
        self.deadline = deadline
        self._cancelled = cancelled
        self._alone = alone
        #: Gets each batch that has items of the group, with how many, before it runs.
        self.batches = batches
        self._answers: list[Any] = [None] * size
        self._open = size
        self._begun = self._withdrawn = False
        self._failed_at = size
        self._error: BaseException | None = None
        #: Set by the backlog: when it was queued, its place in the order of arrival, and the batches that bulk had led.
        self.submitted_at = 0.0
        self.number = 0
        self.bulk_before = 0

    @property
    def size(self) -> int:
        return len(self._answers)

    def begin(self) -> None:
        """From here on the future cannot be withdrawn. Called with the batcher's lock held."""
        if not self._begun:
            self._begun = True
            self._withdrawn = not self.future.set_running_or_notify_cancel()

    def refusal(self, now: float) -> Exception | None:
        """Why its items must not run any more."""
        if self._withdrawn:
            return Cancelled()
        if self.deadline is not None and now >= self.deadline:
            return DeadlineExceeded()
        try:
            return Cancelled() if self._cancelled is not None and self._cancelled() else None
        except Exception as error:
            return error
        except BaseException as error:
            # It is asked in a runner's thread, which others need.
            internal = Internal(f"Asking whether it was cancelled ended in {type(error).__name__}.")
            internal.__cause__ = error
            return internal

    def answer(self, index: int, answer: Out) -> bool:
        """Keep an item's answer. True for the last item: `resolve` is then due, after the lock is released."""
        self._answers[index] = answer
        self._open -= 1
        return not self._open

    def fail(self, index: int, error: BaseException) -> bool:
        """Keep an item's error. True for the last item, as with `answer`."""
        if index < self._failed_at:
            self._failed_at, self._error = index, error
        self._open -= 1
        return not self._open

    def refuse(self, error: BaseException) -> None:
        """Resolve a group that was never queued."""
        self._error = error
        self.resolve()

    def resolve(self) -> None:
        """Hand the answers over, unless the caller has withdrawn the future."""
        self.begin()
        if self._withdrawn:
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._answers[0] if self._alone else self._answers)
