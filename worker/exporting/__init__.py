"""What is made of a document's bytes and its result: the searchable PDF, the overlay of its lines.

Runs as a child process of whoever wants it (`producer.exporting` starts it), behind the same walls as the decoders.
Like them it imports nothing of the rest of ocrpool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line's text and its corners in pixels of the upright page, clockwise from where the text begins."""

    text: str
    quad: tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class PageLines:
    """What was read on a page of so many pixels; or why nothing was."""

    page: int
    width: int
    height: int
    lines: tuple[Line, ...]
    error: str

    @classmethod
    def of(cls, page: dict[str, Any]) -> Self:
        lines = tuple(Line(line["text"], line["quad"]) for line in page["lines"])
        return cls(page["page"], page["width"], page["height"], lines, page["error"])
