"""`Retry-After`, as servers send it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite


def retry_after_s(header: str, now: datetime) -> float:
    """The pause that a `Retry-After` asks for: seconds or a date; 0 for what is neither."""
    if header.strip().isdecimal():
        return seconds if isfinite(seconds := float(header)) else 0
    try:
        then = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # the latter for a year or an offset that no date has
        return 0
    return max(0, ((then if then.tzinfo else then.replace(tzinfo=UTC)) - now).total_seconds())
