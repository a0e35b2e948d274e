"""Small documents that tests make, and what they know of the samples."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pikepdf
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


def tiff(texts: Sequence[str], *, black: int = 0, huge: int = 0) -> bytes:
    """One `picture` a page; counted from 1, the page `black` is black all over, and `huge` has 64 megapixels."""
    pages = [picture(text) for text in texts]
    if black:
        pages[black - 1] = Image.new("RGB", pages[0].size)
    if huge:
        pages[huge - 1] = Image.new("1", (8000, 8000), 1)
    return encoded(pages[0], "TIFF", compression="tiff_deflate", save_all=True, append_images=pages[1:])


def pdf(
    *sizes: tuple[float, float],
    content: bytes = b"",
    rotate: int = 0,
    encryption: pikepdf.Encryption | None = None,
) -> bytes:
    """A PDF with a page of each size, in points. Its pages know Helvetica as /F."""
    file = io.BytesIO()
    with pikepdf.new() as document:
        helvetica = pikepdf.Dictionary(
            Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica
        )
        for width, height in sizes:
            page = document.add_blank_page()
            page.MediaBox = pikepdf.Array([0, 0, width, height])
            page.Contents = document.make_stream(content)
            page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=helvetica))
            page.Rotate = rotate
        document.save(file, encryption=encryption)
    return file.getvalue()


def written(*lines: str, at: str = "1 0 0 1 72 720", size: int = 12) -> bytes:
    """The content of a page of `pdf`: lines below one another, the first where `at` says, the operands of Tm."""
    rows = " T* ".join(f"({line}) Tj" for line in lines)
    return f"BT /F {size} Tf {size * 1.5} TL {at} Tm {rows} ET\n".encode("latin-1")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def character_f1(found: str, wanted: str) -> float:
    """F1 of the characters by count, blanks left out: 1 where both texts have the same ones. Order does not matter."""
    a, b = (Counter("".join(text.split())) for text in (found, wanted))
    shared = sum((a & b).values())
    return 2 * shared / (sum(a.values()) + sum(b.values()) or 1)
