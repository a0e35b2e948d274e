"""The searchable PDF: the document's own pages, or pages of its pictures, each with its text, invisible, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import BinaryIO

import pikepdf
import pypdfium2

from worker.decoding import Limits, Refusal
from worker.decoding.pdfs import PdfDocument
from worker.exporting import Line, PageLines, Point
from worker.exporting.pictures import Pictures
from worker.exporting.text_layer import InvisibleFont, Place, text_layer, turned_box

#: A line that is so alike to what the page's own text says at its place is not written again.
ALIKE = 0.8


def write_searchable(
    source: BinaryIO,
    media_type: str,
    pages: Sequence[PageLines],
    file: BinaryIO,
    *,
    widths: Mapping[str, int],
    limits: Limits,
) -> None:
    """Write the PDF. `widths` are of the space and all letters of the lines, in thousandths of their height."""
    if media_type == "application/pdf":
        _add_text(source, pages, file, widths=widths, limits=limits)
    else:
        _make_pages(source, media_type, pages, file, widths=widths, limits=limits)


def _add_text(
    source: BinaryIO, pages: Sequence[PageLines], file: BinaryIO, *, widths: Mapping[str, int], limits: Limits
) -> None:
    drawn = PdfDocument(source, limits)
    with _opened(source) as pdf:
        if len(pdf.pages) != drawn.count():
            raise Refusal("corrupt_document", "The PDF is damaged: its pages are counted in more than one way.")
        font = InvisibleFont(pdf, widths)
        for page in pages:
            if not page.lines:
                continue
            with drawn.open_page(page.page) as opened:
                place = turned_box(opened.get_bbox(), opened.get_rotation(), page.width, page.height)
                lines = [line for line in page.lines if not _is_there(opened, line, place)]
            if lines:
                _lay(pdf, pdf.pages[page.page - 1], text_layer(lines, place, font), font)
        # Its XMP, which may be broken, is none of our business.
        pdf.save(file, fix_metadata_version=False)


def _make_pages(
    source: BinaryIO,
    media_type: str,
    pages: Sequence[PageLines],
    file: BinaryIO,
    *,
    widths: Mapping[str, int],
    limits: Limits,
) -> None:
    read = {page.page: page for page in pages}
    with pikepdf.new() as pdf:
        font = InvisibleFont(pdf, widths)
        pictures = Pictures(source, media_type, limits)
        for number in range(1, pictures.count() + 1):
            page = read.get(number)
            try:
                made, (width_pt, height_pt) = pictures.add_page(pdf, number)
            except Exception:
                if page is None or not page.error:
                    raise
                pictures.add_notice(pdf, f"Page {number} could not be read: {page.error}")
                continue
            if page is not None and page.lines:
                place = turned_box((0, 0, width_pt, height_pt), 0, page.width, page.height)
                _lay(pdf, made, text_layer(page.lines, place, font), font)
        pdf.save(file, object_stream_mode=pikepdf.ObjectStreamMode.generate)


def _lay(pdf: pikepdf.Pdf, page: pikepdf.Page, content: bytes, font: InvisibleFont) -> None:
    """Before the page's own content: what that leaves of the graphics state, nobody knows."""
    name = page.add_resource(font.resource, pikepdf.Name.Font, prefix="Read")
    page.contents_add(pdf.make_stream(content.replace(font.PLACEHOLDER, str(name).encode())), prepend=True)


@contextmanager
def _opened(source: BinaryIO) -> Iterator[pikepdf.Pdf]:
    try:
        pdf = pikepdf.open(source)
    except pikepdf.PasswordError:
        raise Refusal("encrypted_document", "The PDF is protected by a password.") from None
    except pikepdf.PdfError:
        raise Refusal("corrupt_document", "The PDF is damaged and could not be opened.") from None
    with pdf:
        yield pdf


def _is_there(page: pypdfium2.PdfPage, line: Line, place: Place) -> bool:
    """Whether the page's own text says about the same where the line is."""
    corners: list[Point] = [place(x, y) for x, y in line.quad]
    across, down = [x for x, _ in corners], [y for _, y in corners]
    text = page.get_textpage()
    try:
        own = text.get_text_bounded(min(across), min(down), max(across), max(down), errors="replace")
    finally:
        text.close()
    wanted, found = ("".join(said.split()).casefold() for said in (line.text, own))
    if not found or len(found) > 4 * len(wanted) + 40:
        return False
    return wanted in found or SequenceMatcher(None, wanted, found, autojunk=False).ratio() >= ALIKE
