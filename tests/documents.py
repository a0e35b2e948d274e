"""Small documents that tests make, and what they know of the samples."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SAMPLES = Path(__file__).parent / "samples"


def samples() -> list[Path]:
    """Every sample document."""
    return sorted(path for path in SAMPLES.iterdir() if path.suffix in (".png", ".jpg", ".tiff", ".pdf"))


def truth(sample: Path) -> list[str]:
    """The text of each page of a sample."""
    return sample.with_suffix(".txt").read_text(encoding="utf-8").split("\f")


def picture(text: str, *, width: int = 320, height: int = 96) -> Image.Image:
    """A white page with one large line."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((16, height // 3), text, "black", font=ImageFont.load_default(30))
    return image


def png(text: str) -> bytes:
    """`picture` as a PNG."""
    return encoded(picture(text), "PNG")


def tiff(texts: Sequence[str]) -> bytes:
    """One `picture` a page."""
    first, *others = [picture(text) for text in texts]
    return encoded(first, "TIFF", save_all=True, append_images=others)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def character_f1(found: str, wanted: str) -> float:
    """F1 of the characters by count, blanks left out: 1 where both texts have the same ones. Order does not matter."""
    a, b = (Counter("".join(text.split())) for text in (found, wanted))
    shared = sum((a & b).values())
    return 2 * shared / (sum(a.values()) + sum(b.values()) or 1)
