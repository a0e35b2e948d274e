"""Chapter 3: bad documents get a code and a sentence, and nothing else is lost."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pikepdf
import pytest
from PIL import Image

from producer import JobState, PageFailure, PageResult, Producer
from producer.errors import BY_CODE, CorruptDocument, DocumentError, UnsupportedMediaType
from tests.documents import encoded, picture, png


def truncated_jpeg() -> bytes:
    whole = encoded(Image.effect_noise((600, 400), 80).convert("RGB"), "JPEG")
    return whole[: len(whole) // 2]


def huge_png() -> bytes:
    """50,000 x 50,000 pixels in 304 KB: 2.5 GB when decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(6251) * 50_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def pdf(pages: int = 1, **options: object) -> bytes:
    document, buffer = pikepdf.new(), io.BytesIO()
    for _ in range(pages):
        document.add_blank_page(page_size=(200, 200))
    document.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def encrypted_pdf() -> bytes:
    return pdf(encryption=pikepdf.Encryption(user="secret", owner="secret"))


@pytest.mark.parametrize(
    ("document", "error"), [(b"", CorruptDocument), (b"just text", UnsupportedMediaType)], ids=["empty", "text"]
)
def test_some_are_refused_at_once(pool: Producer, document: bytes, error: type[DocumentError]) -> None:
    with pytest.raises(error, match=r"\.$"):
        pool.submit(document, name="photo.png")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (truncated_jpeg, "corrupt_document"),
        (huge_png, "image_too_large"),
        (lambda: b"%PDF-1.7\n" + 100 * b"not really ", "corrupt_document"),
        (encrypted_pdf, "encrypted_document"),
        (lambda: pdf(3000), "too_many_pages"),
    ],
    ids=["truncated-jpeg", "huge-png", "corrupt-pdf", "encrypted-pdf", "3000-pages"],
)
def test_others_fail_alone_while_their_neighbours_are_read(
    pool: Producer, make: Callable[[], bytes], code: str
) -> None:
    before = pool.submit(png("before"))
    bad = pool.submit(make())
    after = pool.submit(png("after"))

    for job in (before, bad, after):
        job.wait(timeout_s=60)

    status = bad.status()
    assert status.state is JobState.FAILED
    assert status.error is not None
    assert status.error.code == code
    assert isinstance(status.error.exception(), BY_CODE[code])
    assert status.error.message.endswith(".")
    assert (before.result().text, after.result().text) == ("before", "after")


def test_a_page_that_fails_leaves_the_others(pool: Producer) -> None:
    # Given a PDF whose second page is larger than any page may be
    document, buffer = pikepdf.new(), io.BytesIO()
    for side in (200, 20_000, 200):
        document.add_blank_page(page_size=(200, 200)).MediaBox = pikepdf.Array([0, 0, side, 200])
    document.save(buffer)

    job = pool.submit(buffer.getvalue())

    assert job.wait(timeout_s=60).state is JobState.PARTIAL
    kinds = [type(page) for page in job.result().pages]
    assert kinds == [PageResult, PageFailure, PageResult]


def test_an_empty_page_is_a_success_without_lines(pool: Producer) -> None:
    job = pool.submit(encoded(picture(""), "PNG"))
    assert job.wait(timeout_s=60).state is JobState.SUCCEEDED
    assert job.result().text == ""
