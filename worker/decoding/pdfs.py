"""PDF pages to RGB, and their own text, through pdfium."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pypdfium2
import pypdfium2.raw as pdfium

from worker.decoding import Allocate, Limits, Refusal, check_pages, check_pixels
from worker.decoding.texts import PageText, read_text

POINTS_PER_INCH = 72

LOCKED = frozenset({pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY})


class PdfDocument:
    """A PDF file that opens without a password."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._limits = limits
        try:
            self._pdf = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            if error.err_code in LOCKED:
                raise Refusal("encrypted_document", "The PDF is protected by a password.") from None
            raise Refusal("corrupt_document", "The PDF is damaged and could not be opened.") from None
        # Filled-in fields are drawn only with a form environment.
        self._pdf.init_forms()

    def count(self) -> int:
        return check_pages(len(self._pdf), self._limits)

    def draw(self, page: int, allocate: Allocate) -> int:
        with self.open_page(page) as opened:
            self._render(opened, allocate)
            return int(opened.get_rotation())

    def text(self, page: int) -> PageText:
        """The page's own text, in pixels of what `draw` draws."""
        with self.open_page(page) as opened:
            size = opened.get_size()
            scale = self._scale(*size)
            width, height = (math.ceil(side * scale) for side in size)
            check_pixels(width, height, self._limits)
            return read_text(opened, width, height)

    @contextmanager
    def open_page(self, page: int) -> Iterator[Any]:
        """One page, counted from 1, for as long as the context lasts."""
        if page > len(self._pdf):
            raise Refusal("corrupt_document", f"The document has no page {page}.")
        try:
            opened = self._pdf[page - 1]
        except pypdfium2.PdfiumError:
            raise Refusal("corrupt_document", f"Page {page} of the PDF is damaged.") from None
        try:
            yield opened
        finally:
            opened.close()

    def close(self) -> None:
        self._pdf.close()

    def _render(self, page: Any, allocate: Allocate) -> None:
        def bitmap(width: int, height: int, format: int, **options: Any) -> pypdfium2.PdfBitmap:
            check_pixels(width, height, self._limits)
            pixels = allocate(width, height)
            buffer = (ctypes.c_ubyte * pixels.size).from_buffer(pixels.data)
            return pypdfium2.PdfBitmap.new_native(width, height, format, buffer=buffer, **options)

        rendered = page.render(
            scale=self._scale(*page.get_size()),
            bitmap_maker=bitmap,
            rev_byteorder=True,
            force_bitmap_format=pdfium.FPDFBitmap_BGR,
        )
        rendered.close()

    def _scale(self, width_pt: float, height_pt: float) -> float:
        """Pixels per point: the configured resolution, or less where the page would have too many pixels."""
        limits = self._limits
        if not (width_pt > 0 and height_pt > 0):
            raise Refusal("corrupt_document", "The page has no area.")
        if max(width_pt, height_pt) > limits.max_page_side_pt:
            raise Refusal(
                "image_too_large",
                f"The page is {width_pt:,.0f} x {height_pt:,.0f} pt; at most {limits.max_page_side_pt:,} are allowed.",
            )
        scale = limits.pdf_dpi / POINTS_PER_INCH
        if math.ceil(width_pt * scale) * math.ceil(height_pt * scale) <= limits.max_page_pixels:
            return scale
        # Each side is rounded up by less than a pixel: solve (w s + 1)(h s + 1) = pixels for s.
        product, total = width_pt * height_pt, width_pt + height_pt
        return (math.sqrt(total**2 + 4 * product * (limits.max_page_pixels - 1)) - total) / (2 * product)
