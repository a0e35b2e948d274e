"""The page with its lines' quads and their places in the reading order, as PNG."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.decoding import Limits, Pixels
from worker.decoding.images import ImageDocument
from worker.decoding.pdfs import PdfDocument
from worker.exporting import PageLines

#: Neighbours in the reading order differ in colour.
COLOURS = ("#d81b60", "#1e88e5", "#2e7d32", "#e65100", "#6a1b9a")
#: Width of an outline and height of a number, as parts of the page's longer side.
OUTLINE, NUMBER = 1 / 900, 1 / 90

# Pillow unpacks its own font once, here: no file may be opened later.
ImageFont.load_default(12)


def draw_overlay(source: BinaryIO, media_type: str, page: PageLines, limits: Limits, file: BinaryIO) -> None:
    """Write the page's picture, in the size that it is read in."""
    document = (
        PdfDocument(source, limits) if media_type == "application/pdf" else ImageDocument(source, media_type, limits)
    )
    drawn: list[Pixels] = []

    def allocate(width: int, height: int) -> Pixels:
        drawn.append(np.empty((height, width, 3), np.uint8))
        return drawn[0]

    document.draw(page.page, allocate)
    picture = Image.fromarray(drawn.pop())
    _mark(picture, page)
    picture.save(file, "PNG", compress_level=3)


def _mark(picture: Image.Image, page: PageLines) -> None:
    pen = ImageDraw.Draw(picture)
    across, down = picture.width / page.width, picture.height / page.height
    longer = max(picture.size)
    outline, size = max(1, round(longer * OUTLINE)), max(9, round(longer * NUMBER))
    font = ImageFont.load_default(size)
    for number, line in enumerate(page.lines):
        colour = COLOURS[number % len(COLOURS)]
        corners = [(x * across, y * down) for x, y in line.quad]
        pen.polygon(corners, outline=colour, width=outline)
        # Where the text begins, half outside the quad so that the letters stay visible.
        x, y = corners[0]
        label = pen.textbbox((x, y), str(number + 1), font=font, anchor="mm")
        pen.rectangle((label[0] - 2, label[1] - 1, label[2] + 1, label[3] + 1), fill=colour)
        pen.text((x, y), str(number + 1), "white", font=font, anchor="mm")
