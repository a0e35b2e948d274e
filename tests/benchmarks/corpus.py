"""The pages that are measured, with what they say."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.documents import SAMPLES, truth

#: A folder with `sroie/` (receipts of ICDAR 2019 SROIE with their transcripts), or a folder `shared/data` beside the
#: checkout. Where there is none, the project's own samples are measured.
EVALUATION_DATA = Path(os.environ.get("OCRPOOL_EVAL_DATA") or Path(__file__).parents[3] / "shared/data")


@dataclass(frozen=True)
class Page:
    """One image file and the text on it."""

    path: Path
    text: str


def receipts(limit: int) -> tuple[str, list[Page]]:
    """The name of the corpus and at most `limit` of its pages."""
    found = sorted((EVALUATION_DATA / "sroie").glob("*.jpg"))[:limit]
    if found:
        return f"{len(found)} SROIE receipts", [Page(path, _sroie_text(path.with_suffix(".csv"))) for path in found]
    own = [SAMPLES / name for name in ("invoice.png", "notes_zh.png", "receipt.jpg")]
    return "the project's 3 sample images", [Page(path, truth(path)[0]) for path in own]


def _sroie_text(transcript: Path) -> str:
    """Each row is eight coordinates and a text that may hold commas."""
    rows = transcript.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(row.split(",", 8)[8] for row in rows if row.count(",") >= 8)


@dataclass(frozen=True)
class Accuracy:
    """F1 over all pages, by count of characters and of words. Case and order do not matter: transcripts are in upper
    case, and in an order of their own."""

    character_f1: float
    word_f1: float


def accuracy(pages: list[Page], texts: list[str]) -> Accuracy:
    pairs = [(page.text.upper(), text.upper()) for page, text in zip(pages, texts, strict=True)]
    return Accuracy(
        character_f1=_f1([(Counter("".join(a.split())), Counter("".join(b.split()))) for a, b in pairs]),
        word_f1=_f1([(Counter(a.split()), Counter(b.split())) for a, b in pairs]),
    )


def _f1(pairs: list[tuple[Counter[str], Counter[str]]]) -> float:
    shared = sum((wanted & found).total() for wanted, found in pairs)
    return 2 * shared / max(1, sum(wanted.total() + found.total() for wanted, found in pairs))
