"""Documents that are drawn: for a machine without a corpus, and where only their kinds and sizes matter."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_ITEMS = (
    "FLAT WHITE",
    "OLIVE OIL 1L",
    "A4 PAPER 500",
    "USB CABLE",
    "GREEN TEA",
    "NOTEBOOK A5",
    "BATTERY AA",
    "RICE 5KG",
)
#: What a soak is mixed of: format and size in pixels.
_KINDS = (("PNG", 320, 96), ("JPEG", 900, 1400), ("TIFF", 640, 448), ("PDF", 827, 1169), ("PNG", 1169, 827))
#: Pages of the documents that have more than one.
_LONG = 5


def draw_receipts(folder: Path, count: int, seed: int = 0) -> None:
    """Receipts as PNG files with their text beside them, the same for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    random_ = random.Random(seed)
    for number in range(count):
        lines = [f"RECEIPT NO {1000 + number}", f"DATE {random_.randrange(1, 29)}.0{random_.randrange(1, 10)}.2025"]
        for _ in range(random_.randrange(12, 32)):
            lines.append(f"{random_.choice(_ITEMS)}  {random_.randrange(1, 100)}.{random_.randrange(10, 100)}")
        picture = Image.new("RGB", (620, 120 + 44 * len(lines)), "white")
        _write(picture, lines, size=26)
        picture.save(folder / f"receipt-{number:03}.png")
        (folder / f"receipt-{number:03}.txt").write_text("\n".join(lines), encoding="utf-8")


def mixed_documents(seed: int = 0) -> Iterator[tuple[bytes, int]]:
    """Documents of all kinds, each with its count of pages, for ever; ten are drawn and come back in turn."""
    random_ = random.Random(seed)
    drawn = []
    for number in range(10):
        format, width, height = _KINDS[number % len(_KINDS)]
        pages = _LONG if format in ("TIFF", "PDF") else 1
        pictures = []
        for page in range(pages):
            picture = Image.new("RGB", (width, height + 32 * random_.randrange(3)), "white")
            _write(picture, [f"document {number}", f"page {page}"], size=min(30, height // 4))
            pictures.append(picture)
        drawn.append((_encoded(pictures, format), pages))
    while True:
        yield from drawn


def blank_document() -> bytes:
    """The smallest document that the pool reads a line on."""
    picture = Image.new("RGB", (320, 96), "white")
    _write(picture, ["null"], size=30)
    return _encoded([picture], "PNG")


def _write(picture: Image.Image, lines: list[str], *, size: int) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for number, line in enumerate(lines):
        pen.text((2 * size, size + number * size * 1.7), line, "black", font=font)


def _encoded(pictures: list[Image.Image], format: str) -> bytes:
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if len(pictures) > 1 else {}
    pictures[0].save(buffer, format, **more)
    return buffer.getvalue()
