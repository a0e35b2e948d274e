"""A PDF page's own text, in place of OCR or beside it. `worker.decoding.texts` tells where it may be believed."""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.metadata import version
from pathlib import Path

import structlog

from producer.errors import DocumentError, Internal, PageTimeout
from producer.job import Line, PageResult, TextDoubt, Timings
from worker.decoder import Text
from worker.rasterise import Rasteriser
from worker.reading import arrange

log = structlog.get_logger(__name__)


class OwnText:
    """One PDF page's own text, or that it could not be had."""

    def __init__(self, text: Text | None) -> None:
        self._text = text
        #: Why it should not be taken, or nothing.
        self.doubt: TextDoubt = "unreadable" if text is None else text.doubt

    @classmethod
    def of(cls, rasteriser: Rasteriser, document: Path, page: int) -> OwnText:
        """The text of a page, counted from 1. What is wrong with a page is for OCR to find.

        Raises:
            FetchFailed, Unavailable
        """
        try:
            return cls(rasteriser.text(document, page))
        except (DocumentError, PageTimeout, Internal) as error:
            log.info("text.unreadable", page=page, error=str(error))
            return cls(None)

    def as_page(self, page: int, took_ms: float) -> PageResult:
        """The page's result, made of this text."""
        if self._text is None:
            raise ValueError("there is no text")
        lines, text = arrange(_lines(self._text))
        return PageResult(
            page=page,
            width=self._text.width,
            height=self._text.height,
            angle=self._text.angle,
            lines=lines,
            text=text,
            engine="pdf",
            model=_reader(),
            source="pdf",
            timings=Timings(rasterise_ms=round(took_ms, 3), detect_ms=0, recognise_ms=0),
        )

    def beside(self, read: PageResult, *, compare: bool) -> PageResult:
        """What OCR read, with what is to be said of this text."""
        agreement = None
        if compare and self._text is not None and self._text.lines:
            agreement = round(similarity(arrange(_lines(self._text))[1], read.text), 4)
        return read.model_copy(update={"text_doubt": self.doubt, "text_agreement": agreement})


def _lines(text: Text) -> list[Line]:
    corners = ((line.quad, line.text) for line in text.lines)
    return [
        Line(quad=((a, b), (c, d), (e, f), (g, h)), text=text, score=1.0) for (a, b, c, d, e, f, g, h), text in corners
    ]


@cache
def _reader() -> str:
    # Not imported: PDFs are parsed in the decoders alone.
    return f"pypdfium2 {version('pypdfium2')}"


def similarity(one: str, other: str) -> float:
    """How much two texts have in common, in their order: twice the longest common subsequence by both lengths.

    Blanks, and forms of one character, make no difference. The subsequence is found for all of a text at once, a bit a
    character (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004): a page takes a few milliseconds.
    """
    a, b = ("".join(unicodedata.normalize("NFKC", text).split()) for text in (one, other))
    if not a or not b:
        return float(a == b)
    places: dict[str, int] = {}
    for n, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << n
    whole = (1 << len(a)) - 1
    open_ = whole
    for character in b:
        match = open_ & places.get(character, 0)
        open_ = (open_ + match | open_ - match) & whole
    return 2 * (len(a) - open_.bit_count()) / (len(a) + len(b))
