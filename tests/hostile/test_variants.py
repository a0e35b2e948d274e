"""However a page is stored, the models read the same text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from producer.job import ReadOptions
from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings
from tests.documents import encoded, picture
from worker.engines import PpOcr
from worker.rasterise import Rasteriser

TEXT = "Invoice 4711"
#: EXIF orientation -> the transposition that undoes it.
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(TEXT)
    if orientation in UNDO:
        stored = stored.transpose(Image.Transpose(UNDO[orientation]))
    return encoded(stored, "JPEG", quality=95, exif=exif)


def alpha() -> Image.Image:
    """The ink is opaque black; the paper is transparent black."""
    image = Image.new("RGBA", picture(TEXT).size, (0, 0, 0, 0))
    image.putalpha(picture(TEXT).convert("L").point(lambda value: 255 - value))
    return image


def deep() -> Image.Image:
    return Image.fromarray(np.asarray(picture(TEXT).convert("L")).astype(np.uint16) * 257)


VARIANTS: dict[str, Callable[[], bytes]] = {
    **{f"EXIF {orientation}": partial(turned, orientation) for orientation in range(1, 9)},
    "CMYK TIFF": lambda: encoded(picture(TEXT).convert("CMYK"), "TIFF"),
    "CMYK JPEG": lambda: encoded(picture(TEXT).convert("CMYK"), "JPEG", quality=95),
    "16-bit": lambda: encoded(deep(), "PNG"),
    "palette": lambda: encoded(picture(TEXT).quantize(16), "PNG"),
    "1-bit": lambda: encoded(picture(TEXT).convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4"),
    "alpha": lambda: encoded(alpha(), "PNG"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[PpOcr]:
    engine = PpOcr(Settings(device="cpu", detector_sizes=((160, 320),), predictor_threads=1))
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize("name", VARIANTS)
def test_reads_as_its_plain_twin(rasteriser: Rasteriser, engine: PpOcr, tmp_path: Path, name: str) -> None:
    path = tmp_path / "document"
    path.write_bytes(VARIANTS[name]())

    with (
        rasteriser.page(path, sniff(path.read_bytes()[:SNIFF_BYTES]), 1) as raster,
        engine.passage(ReadOptions(), math.inf, lambda: False) as passage,
    ):
        text = passage.read(1, raster, 0).text

    assert "".join(text.split()) == "".join(TEXT.split())
