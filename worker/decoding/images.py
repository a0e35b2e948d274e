"""Images to RGB, through Pillow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

# Imported by name, so that nothing is looked up on disk once the limits stand.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from worker.decoding import Allocate, Limits, Pixels, Refusal, check_pages, check_pixels

# Pillow looks for its default formats when it opens the first image.
Image.preinit()

# Pillow's own bomb check warns before it refuses; the limits here are checked from the header instead.
Image.MAX_IMAGE_PIXELS = None

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/gif": "GIF",
}

EXIF_ORIENTATION = 0x0112

#: EXIF orientation -> the view of the upright page that has the stored image's rows and columns
#: (CIPA DC-008, table 6: where the stored row 0 and column 0 lie on the upright page).
AS_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}
#: EXIF orientation -> degrees clockwise; 2, 4, 5 and 7 are mirrored as well.
ANGLES = {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}

#: Rows converted at a time, so that a large page never exists in several modes at once.
BAND_ROWS = 256


class ImageDocument:
    """An image file; several pages only for TIFF."""

    def __init__(self, file: BinaryIO, media_type: str, limits: Limits) -> None:
        self._limits = limits
        self._tiff = media_type == "image/tiff"
        if media_type == "image/webp":
            check_pixels(*_webp_size(file), limits)
        self._image = Image.open(file, formats=(FORMATS[media_type],))
        check_pixels(*self._image.size, limits)

    def count(self) -> int:
        if not self._tiff:
            return 1
        pages = 0
        try:
            while pages <= self._limits.max_pages:
                self._image.seek(pages)
                pages += 1
        except EOFError:
            pass
        return check_pages(pages, self._limits)

    def draw(self, page: int, allocate: Allocate) -> int:
        try:
            self._image.seek(page - 1 if self._tiff else 0)
        except EOFError:
            raise Refusal("corrupt_document", f"The document has no page {page}.") from None
        image = self._image
        check_pixels(*image.size, self._limits)
        orientation = _orientation(image)
        image.load()
        # Pillow turns TIFF pages itself while it loads them.
        stored_as = 1 if self._tiff else orientation
        width, height = image.size if stored_as < 5 else image.size[::-1]
        check_pixels(width, height, self._limits)
        _copy(image, AS_STORED[stored_as](allocate(width, height)))
        return ANGLES[orientation]

    def close(self) -> None:
        self._image.close()


def _webp_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height from the header (RFC 9649, section 2), because Pillow takes a canvas of that size to open it."""
    head = file.read(30)
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1
    return orientation if orientation in ANGLES else 1


def _copy(image: Image.Image, pixels: Pixels) -> None:
    deep = image.mode.startswith("I") or image.mode == "F"
    whole = _deep_range(image) if deep else (0.0, 0.0)
    for top in range(0, image.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, image.height)
        band = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _scaled(band, *whole) if deep else _rgb(band)


def _rgb(band: Image.Image) -> Pixels:
    try:
        if band.has_transparency_data:
            layer = band.convert("RGBA")
            band = Image.new("RGB", band.size, "white")
            band.paste(layer, mask=layer.getchannel("A"))
        return np.asarray(band.convert("RGB"))
    except ValueError:
        raise Refusal("unsupported_media_type", f"Images of the colour mode {band.mode} are not read.") from None


def _deep_range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white in an image of more than 8 bits: the type's range where it is known."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    extrema: Any = image.getextrema()
    low, high = min(0.0, float(extrema[0])), float(extrema[1])
    if not np.isfinite((low, high)).all():
        raise Refusal("corrupt_document", "The image has values that are no numbers.")
    if image.mode == "F" or high > 65535:
        return low, max(high, low + 1)
    return low, 255.0 if high <= 255 else 65535.0


def _scaled(band: Image.Image, low: float, high: float) -> Pixels:
    grey = (np.asarray(band).astype(np.float32) - low) * (255.0 / (high - low)) + 0.5
    eight_bits: Pixels = np.clip(grey, 0, 255).astype(np.uint8)
    return eight_bits[:, :, None]
