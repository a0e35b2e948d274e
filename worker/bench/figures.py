"""What is made of many measurements: percentiles, medians, paired ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Figures(BaseModel):
    """A frozen part of the document that a run writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Figures):
    """How a time is spread over the documents, in milliseconds."""

    documents: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least one time in seconds."""
        return cls(
            documents=len(seconds),
            mean_ms=1000 * statistics.fmean(seconds),
            p50_ms=1000 * percentile(seconds, 50),
            p95_ms=1000 * percentile(seconds, 95),
            p99_ms=1000 * percentile(seconds, 99),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed: of few values, the highest stand for p99.

    Nothing is interpolated, so that a tail is never made shorter than what was seen.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of their times by ours, round by round: the machine's speed drifts, a round's ratio hardly does."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
