"""Documents that mean harm become a page or one clear error, and the next document is read as if nothing had been."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from producer.errors import (
    CorruptDocument,
    ImageTooLarge,
    OcrpoolError,
    PageTimeout,
    TooManyPages,
    UnsupportedMediaType,
)
from producer.job import MediaType
from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings
from tests.documents import encoded, pdf
from tests.hostile import documents
from worker.own_text import OwnText
from worker.rasterise import Rasteriser

RED = (255, 0, 0)


def first_page(rasteriser: Rasteriser, path: Path, content: bytes) -> NDArray[np.uint8]:
    """What the pool does with a document, up to its first page."""
    path.write_bytes(content)
    media_type = sniff(content[:SNIFF_BYTES])
    rasteriser.count_pages(path, media_type)
    with rasteriser.page(path, media_type, 1) as raster:
        return raster.pixels.copy()


def assert_the_next_page_is_read(rasteriser: Rasteriser, tmp_path: Path) -> None:
    plain = encoded(Image.new("RGB", (30, 20), RED), "PNG")
    assert (first_page(rasteriser, tmp_path / "plain", plain) == RED).all()


REFUSED: dict[str, tuple[Callable[[], bytes], type[OcrpoolError] | tuple[type[OcrpoolError], ...]]] = {
    "PDF of 10,000 pages": (lambda: pdf(*[(72, 72)] * 10_000), TooManyPages),
    "PDF page tree that holds itself": (documents.pdf_of_itself, CorruptDocument),
    "TIFF of 5,000 frames": (lambda: documents.tiff_of_frames(5000), TooManyPages),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", UnsupportedMediaType),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n", UnsupportedMediaType),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(500), UnsupportedMediaType),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(rasteriser: Rasteriser, tmp_path: Path, name: str) -> None:
    make, error = REFUSED[name]

    with pytest.raises(error):
        first_page(rasteriser, tmp_path / "hostile", make())

    assert_the_next_page_is_read(rasteriser, tmp_path)


#: A page without area is read as one of letter size, as PDF readers do.
READ: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "PDF page without width": (lambda: pdf((0, 100)), (1651, 1275)),
    "nested 100,000 deep": (lambda: documents.pdf_nested(100_000), (209, 209)),
    "GIF of 2,000 frames": (lambda: documents.gif_bomb(2000), (500, 500)),
    "APNG of 2,000 frames": (lambda: documents.apng_bomb(2000), (500, 500)),
}


@pytest.mark.parametrize("name", READ)
def test_read(rasteriser: Rasteriser, tmp_path: Path, name: str) -> None:
    make, shape = READ[name]

    try:
        assert first_page(rasteriser, tmp_path / "hostile", make()).shape == (*shape, 3)
    except CorruptDocument:
        assert "nested" in name  # a decoder may also refuse it

    assert_the_next_page_is_read(rasteriser, tmp_path)


def test_a_text_in_a_png_is_not_unpacked_without_bound(rasteriser: Rasteriser, tmp_path: Path) -> None:
    with suppress(CorruptDocument, ImageTooLarge):
        assert first_page(rasteriser, tmp_path / "hostile", documents.png_text_bomb()).shape == (8, 8, 3)
    assert_the_next_page_is_read(rasteriser, tmp_path)


def test_a_tiff_in_a_circle_ends(rasteriser: Rasteriser, tmp_path: Path) -> None:
    with suppress(CorruptDocument, TooManyPages):
        assert first_page(rasteriser, tmp_path / "hostile", documents.tiff_in_a_circle()).shape == (1, 1, 3)
    assert_the_next_page_is_read(rasteriser, tmp_path)


@pytest.mark.parametrize("encoding", ["JBIG2Decode", "JPXDecode", "DCTDecode", "CCITTFaxDecode", "LZWDecode"])
def test_an_image_of_junk_leaves_the_rest_of_its_page(rasteriser: Rasteriser, tmp_path: Path, encoding: str) -> None:
    with suppress(CorruptDocument, ImageTooLarge):  # where the decoder ran out of memory
        pixels = first_page(rasteriser, tmp_path / "hostile", documents.pdf_of_junk(encoding))
        assert pixels.shape == (209, 209, 3)
    assert_the_next_page_is_read(rasteriser, tmp_path)


HOSTILE_TEXTS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "text that unpacks to a gigabyte": (lambda: documents.pdf_of_text(1_000_000_000), {"unreadable", "too_long"}),
    "forms nested 2,000 deep, in a circle": (
        lambda: documents.pdf_of_form_in_form(2000),
        {"unreadable", "few_characters"},
    ),
    "terminal commands": (lambda: documents.pdf_that_calls_letters("\x1b[2J"), {"unmapped"}),
    "text that runs backwards": (lambda: documents.pdf_that_calls_letters("\u202e"), {"few_characters"}),
    "a tree of pages that holds itself": (documents.pdf_of_itself, {"unreadable"}),
    "nested 100,000 deep": (lambda: documents.pdf_nested(100_000), {"unreadable", "few_characters"}),
    "junk": (lambda: b"%PDF-1.7 junk", {"unreadable"}),
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_a_hostile_text_is_left_to_ocr(rasteriser: Rasteriser, tmp_path: Path, name: str) -> None:
    make, doubts = HOSTILE_TEXTS[name]
    path = tmp_path / "hostile.pdf"
    path.write_bytes(make())

    assert OwnText.of(rasteriser, path, 1).doubt in doubts

    assert_the_next_page_is_read(rasteriser, tmp_path)


def test_scripts_and_attachments_of_a_pdf_are_ignored(rasteriser: Rasteriser, tmp_path: Path) -> None:
    pixels = first_page(rasteriser, tmp_path / "hostile", documents.pdf_with_script_and_attachment())
    assert tuple(pixels[5, 5]) == RED


def test_an_image_that_unpacks_to_a_gigabyte_costs_its_page_alone(rasteriser: Rasteriser, tmp_path: Path) -> None:
    with suppress(CorruptDocument, ImageTooLarge):  # where the decoder ran out of memory
        pixels = first_page(rasteriser, tmp_path / "hostile", documents.pdf_of_flate())
        assert tuple(pixels[5, 5]) == RED
    assert_the_next_page_is_read(rasteriser, tmp_path)


def test_a_page_that_would_be_drawn_for_ever_is_given_up(tmp_path: Path) -> None:
    rasteriser = Rasteriser(Settings(rasterise_processes=1, page_timeout_s=1))
    rasteriser.start()
    try:
        with pytest.raises(PageTimeout):
            first_page(rasteriser, tmp_path / "hostile", documents.pdf_of_forms(12))
        assert_the_next_page_is_read(rasteriser, tmp_path)
    finally:
        rasteriser.stop()


def test_the_largest_page_is_drawn_with_the_pixels_that_are_allowed(tmp_path: Path) -> None:
    rasteriser = Rasteriser(Settings(rasterise_processes=1, max_page_pixels=250_000))
    rasteriser.start()
    try:
        pixels = first_page(rasteriser, tmp_path / "hostile", pdf((14_400, 14_400)))
        assert 240_000 < pixels.shape[0] * pixels.shape[1] <= 250_000
    finally:
        rasteriser.stop()


def test_a_polyglot_is_what_its_first_bytes_say(rasteriser: Rasteriser, tmp_path: Path) -> None:
    # Given a GIF that is a PDF as well, under a name that says PNG
    gif = io.BytesIO()
    Image.new("RGB", (31, 17), RED).save(gif, "GIF")
    both = gif.getvalue() + pdf((100, 100))

    assert sniff(both[:SNIFF_BYTES]) is MediaType.GIF
    assert first_page(rasteriser, tmp_path / "hostile.png", both).shape == (17, 31, 3)

    # And a decoder that is told another type does not guess
    with pytest.raises(CorruptDocument):
        rasteriser.count_pages(tmp_path / "hostile.png", MediaType.PNG)
