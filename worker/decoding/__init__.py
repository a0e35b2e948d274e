"""The decoder's side of the sandbox: what runs in a child process, between hostile bytes and an array.

It imports Pillow, pypdfium2 and numpy, and nothing of the rest of ocrpool: a child starts fast and holds no secret.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: `uint8[height, width, 3]`, RGB, on the memory that the page's reader sees.
Pixels = NDArray[np.uint8]

#: Makes room for a page of (width, height).
Allocate = Callable[[int, int], Pixels]


@dataclass(frozen=True)
class Limits:
    """What a page may take. Field names are those of the settings."""

    max_pages: int
    max_page_pixels: int
    max_page_side_pt: int
    pdf_dpi: int
    page_timeout_s: float
    rasterise_memory_bytes: int
    sandbox: str


class Refusal(Exception):
    """A page that will not be decoded: a code of `producer.errors` and one sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Document(Protocol):
    """An open document."""

    def count(self) -> int:
        """How many pages it has; `Refusal` when they are more than the limit."""
        ...

    def draw(self, page: int, allocate: Allocate) -> int:
        """Draw the page, counted from 1, and say by how many degrees clockwise it was turned to stand upright."""
        ...

    def close(self) -> None: ...


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Refuse a page of too many pixels before any of them is decoded."""
    if width < 1 or height < 1:
        raise Refusal("corrupt_document", "The page has no pixels.")
    if width * height > limits.max_page_pixels:
        raise Refusal(
            "image_too_large",
            f"The page has {width:,} x {height:,} pixels; at most {limits.max_page_pixels:,} are allowed.",
        )


def check_pages(pages: int, limits: Limits) -> int:
    if pages < 1:
        raise Refusal("corrupt_document", "The document has no pages.")
    if pages > limits.max_pages:
        raise Refusal(
            "too_many_pages", f"The document has more than {limits.max_pages:,} pages, which is the most allowed."
        )
    return pages
