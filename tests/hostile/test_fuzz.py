"""Mutated documents: a page or one of our codes, whatever the bytes; and nothing is left of them.

Guided fuzzing (atheris) would not pay: what parses the bytes is Pillow's and pdfium's C code, which OSS-Fuzz drives
with coverage where it is built. Here it is not instrumented, and what is ours around it is short.
"""

from __future__ import annotations

import gc
from pathlib import Path

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.errors import OcrpoolError
from producer.job import MediaType
from tests.documents import encoded, pdf, picture, tiff
from worker.rasterise import Rasteriser

VALID = {
    MediaType.PNG: encoded(picture("PNG"), "PNG"),
    MediaType.JPEG: encoded(picture("JPEG"), "JPEG"),
    MediaType.GIF: encoded(picture("GIF"), "GIF"),
    MediaType.BMP: encoded(picture("BMP", width=32, height=32), "BMP"),
    MediaType.WEBP: encoded(picture("WebP"), "WEBP"),
    MediaType.TIFF: tiff(["TIFF", "two"]),
    MediaType.PDF: pdf((100, 100), (50, 50), content=b"1 0 0 rg 0 0 36 36 re f"),
}
BAD_INPUT = {"corrupt_document", "image_too_large", "too_many_pages", "unsupported_media_type", "encrypted_document"}


@st.composite
def mutated(draw: st.DrawFn) -> tuple[MediaType, bytes]:
    """A valid file with a few of its bytes changed, removed, doubled or cut off; and what it is said to be."""
    media_type = draw(st.sampled_from(list(VALID)))
    data = bytearray(VALID[media_type])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 2, 4, 64]))
        kind = draw(st.sampled_from(["change", "remove", "double", "cut"]))
        if kind == "change":
            data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "remove":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        else:
            del data[at + len(data) // 2 :]
    said = draw(st.sampled_from([media_type, media_type, media_type, *VALID]))
    return said, bytes(data)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=mutated())
def test_any_bytes_become_a_page_or_one_of_our_codes(
    rasteriser: Rasteriser, tmp_path: Path, document: tuple[MediaType, bytes]
) -> None:
    me = psutil.Process()
    before, children = me.num_fds(), len(me.children())
    path, plain = tmp_path / "fuzzed", tmp_path / "plain"
    path.write_bytes(document[1])
    plain.write_bytes(VALID[MediaType.PNG])

    code = ""
    try:
        rasteriser.count_pages(path, document[0])
        with rasteriser.page(path, document[0], 1) as raster:
            assert raster.pixels.size == raster.width * raster.height * 3
    except OcrpoolError as error:
        code = error.code
    assert not code or code in BAD_INPUT

    with rasteriser.page(plain, MediaType.PNG, 1) as raster:
        assert raster.pixels.shape == (96, 320, 3)
    del raster
    gc.collect()
    assert (me.num_fds(), len(me.children())) == (before, children)
    assert rasteriser.raster_bytes == 0
    [pid] = rasteriser.pids
    assert psutil.Process(pid).num_fds() < 12
    assert "memfd:page" not in Path(f"/proc/{pid}/maps").read_text()
