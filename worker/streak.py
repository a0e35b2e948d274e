"""Failures in a row that no item can be blamed for."""

from __future__ import annotations

from typing import Any

from worker.groups import Group

#: So many items in a row that each failed alone, handed in by so many callers, with none answered in between, are not
#: to blame: what runs them is.
MOST_FAILURES, LEAST_GROUPS = 8, 3


class Streak:
    """Counts items that failed alone since one was answered. Not thread-safe: the batcher's lock guards it."""

    def __init__(self) -> None:
        self._failures = 0
        self._groups: set[Group[Any]] = set()

    def end(self) -> None:
        """An item was answered."""
        if self._failures:
            self._failures = 0
            self._groups.clear()

    def grow(self, group: Group[Any]) -> bool:
        """An item of the group failed alone. Whether that is no longer its own fault."""
        self._failures += 1
        self._groups.add(group)
        return self._failures >= MOST_FAILURES and len(self._groups) >= LEAST_GROUPS
