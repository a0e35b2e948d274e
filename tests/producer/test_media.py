"""A document's type is told by its first bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from producer.errors import CorruptDocument, UnsupportedMediaType
from producer.job import MediaType
from producer.media import SNIFF_BYTES, sniff

FORMATS = {
    MediaType.PNG: "PNG",
    MediaType.JPEG: "JPEG",
    MediaType.TIFF: "TIFF",
    MediaType.WEBP: "WEBP",
    MediaType.BMP: "BMP",
    MediaType.GIF: "GIF",
}


@pytest.mark.parametrize(("media_type", "format"), FORMATS.items())
def test_every_image_format_is_known(media_type: MediaType, format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(file, format)

    assert sniff(file.getvalue()[:SNIFF_BYTES]) is media_type


@pytest.mark.parametrize("junk", [b"", b"\n", b"\x1b%-12345X@PJL\n", b"x" * 1024])
def test_a_pdf_may_have_junk_before_its_header(junk: bytes) -> None:
    assert sniff((junk + b"%PDF-1.7\n...")[:SNIFF_BYTES]) is MediaType.PDF


@pytest.mark.parametrize("head", [b"II+\x00\x08\x00", b"MM\x00+\x00\x08", b"MM\x00*\x00\x00"])
def test_tiff_of_either_byte_order_and_size(head: bytes) -> None:
    assert sniff(head) is MediaType.TIFF


@pytest.mark.parametrize(
    "head",
    [
        b"just some text",
        b"BMW was founded in 1916, and this is text.",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<html><body>hello</body></html>",
        b"PK\x03\x04",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\x00" * 64,
        b"x" * 1025 + b"%PDF-1.7",
    ],
)
def test_anything_else_is_refused(head: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="neither a PDF nor"):
        sniff(head)


def test_no_bytes_are_no_document() -> None:
    with pytest.raises(CorruptDocument, match="The document is empty"):
        sniff(b"")
