"""The pages that are measured, with what they say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from producer.errors import InvalidRequest
from worker.bench.drawings import draw_receipts
from worker.bench.figures import Figures

#: A checkout, where this is one.
ROOT = Path(__file__).parents[2]
#: Folders that are measured where no other is named, the first that has images: receipts of ICDAR 2019 SROIE (in
#: `sroie/` of the folder that `OCRPOOL_EVAL_DATA` names, or of `shared/data` beside the checkout).
EVALUATION_DATA = Path(os.environ.get("OCRPOOL_EVAL_DATA") or ROOT.parent / "shared/data") / "sroie"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@dataclass(frozen=True)
class Page:
    """One image file and the text on it; None where nobody knows."""

    path: Path
    text: str | None


@dataclass(frozen=True)
class Corpus:
    """Pages and what they are, in words."""

    name: str
    pages: tuple[Page, ...]

    @property
    def paths(self) -> list[Path]:
        return [page.path for page in self.pages]

    @property
    def has_truth(self) -> bool:
        return any(page.text is not None for page in self.pages)


def load_corpus(folder: Path | None, limit: int, scratch: Path) -> Corpus:
    """At most `limit` pages of the folder, or of the receipts beside the checkout, or else receipts drawn in `scratch`.

    Raises:
        InvalidRequest: the folder holds no image.
    """
    if folder is not None:
        pages = _pages(folder, limit)
        if not pages:
            raise InvalidRequest(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}).")
        return Corpus(f"{len(pages)} pages of {folder.name}", pages)
    if pages := _pages(EVALUATION_DATA, limit):
        return Corpus(f"{len(pages)} SROIE receipts", pages)
    draw_receipts(scratch, min(limit, 24))
    pages = _pages(scratch, limit)
    return Corpus(f"{len(pages)} drawn receipts", pages)


def _pages(folder: Path, limit: int) -> tuple[Page, ...]:
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:limit]
    return tuple(Page(path, _truth(path)) for path in images)


def _truth(image: Path) -> str | None:
    """What a file beside the image says: `.csv` as SROIE has it, eight coordinates and a text a row; or `.txt`."""
    transcript, text = image.with_suffix(".csv"), image.with_suffix(".txt")
    if transcript.is_file():
        rows = transcript.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(row.split(",", 8)[8] for row in rows if row.count(",") >= 8)
    return text.read_text(encoding="utf-8", errors="replace") if text.is_file() else None


class Accuracy(Figures):
    """F1 over all pages with a truth, by count of characters and of words. Case and order do not matter: transcripts
    are in upper case, and in an order of their own."""

    pages: int
    character_f1: float
    word_f1: float


def accuracy(pages: Sequence[Page], texts: Sequence[str]) -> Accuracy | None:
    """How well the texts match the pages; None where no page has a truth."""
    pairs = [
        (page.text.upper(), text.upper()) for page, text in zip(pages, texts, strict=True) if page.text is not None
    ]
    if not pairs:
        return None
    return Accuracy(
        pages=len(pairs),
        character_f1=_f1([(Counter("".join(a.split())), Counter("".join(b.split()))) for a, b in pairs]),
        word_f1=_f1([(Counter(a.split()), Counter(b.split())) for a, b in pairs]),
    )


def _f1(pairs: Sequence[tuple[Counter[str], Counter[str]]]) -> float:
    shared = sum((wanted & found).total() for wanted, found in pairs)
    return 2 * shared / max(1, sum(wanted.total() + found.total() for wanted, found in pairs))
