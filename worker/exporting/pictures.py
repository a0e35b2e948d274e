"""Pages made of pictures: a JPEG file goes into the PDF as it is, anything else without loss."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pikepdf
from pikepdf import Dictionary, Name, Stream
from PIL import Image

from worker.decoding import Limits, Pixels, check_pixels
from worker.decoding.images import EXIF_ORIENTATION, FORMATS, ImageDocument

POINTS_PER_INCH = 72
#: Resolutions that are believed; a picture that names another, or none, has that at which PDF pages are read.
DPI = (50, 2400)
#: Rows that are compressed at a time.
BAND_ROWS = 256
#: PNG's filters that leave a row as it is or tell what differs from the one above; the PDF's name for rows with either.
AS_IT_IS, UP, PNG_ROWS = 0, 2, 15
#: A page for a picture that cannot be drawn: A4, in points.
BLANK = (595, 842)

#: EXIF orientation -> how a picture of size 1 is laid on a page of width w and height h (CIPA DC-008, table 6).
LAID = {
    1: "{w} 0 0 {h} 0 0",
    2: "-{w} 0 0 {h} {w} 0",
    3: "-{w} 0 0 -{h} {w} {h}",
    4: "{w} 0 0 -{h} 0 {h}",
    5: "0 -{h} -{w} 0 {w} {h}",
    6: "0 -{h} {w} 0 0 {h}",
    7: "0 {h} {w} 0 0 0",
    8: "0 {h} -{w} 0 {w} 0",
}


class Pictures:
    """The pages of an image file, one after another."""

    def __init__(self, source: BinaryIO, media_type: str, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._document = ImageDocument(source, media_type, limits)
        self._jpeg = media_type == "image/jpeg"
        self._tiff = media_type == "image/tiff"
        #: The same file, for what its header says.
        source.seek(0)
        self._header = Image.open(source, formats=(FORMATS[media_type],))

    def count(self) -> int:
        return self._document.count()

    def add_page(self, pdf: pikepdf.Pdf, number: int) -> tuple[pikepdf.Page, tuple[float, float]]:
        """Append the picture's page, and say its size in points."""
        if self._tiff:
            self._header.seek(number - 1)
        dpi = self._dpi()
        if self._jpeg and self._header.mode in ("L", "RGB"):
            picture, (width, height), orientation = self._as_it_is(pdf)
        else:
            picture, (width, height), orientation = self._without_loss(pdf, number)
        if orientation >= 5:
            dpi = dpi[::-1]
        size = POINTS_PER_INCH * width / dpi[0], POINTS_PER_INCH * height / dpi[1]
        # A page of more points would not be read again.
        shrink = max(1.0, max(size) / self._limits.max_page_side_pt)
        size = size[0] / shrink, size[1] / shrink
        page = pdf.add_blank_page(page_size=size)
        page.Resources = Dictionary(XObject=Dictionary(Picture=picture))
        laid = LAID[orientation].format(w=f"{size[0]:.4f}", h=f"{size[1]:.4f}")
        page.Contents = pdf.make_stream(f"q {laid} cm /Picture Do Q\n".encode())
        return page, size

    def add_notice(self, pdf: pikepdf.Pdf, sentence: str) -> None:
        """Append a page that says why it holds no picture."""
        page = pdf.add_blank_page(page_size=BLANK)
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
        page.Resources = Dictionary(Font=Dictionary(F=font))
        text = pikepdf.String(sentence.encode("ascii", "replace")).unparse()
        page.Contents = pdf.make_stream(b"BT /F 11 Tf 40 780 Td " + text + b" Tj ET\n")

    def _dpi(self) -> tuple[float, float]:
        named: Any = self._header.info.get("dpi", (0, 0))
        across, down = float(named[0]), float(named[1])
        if all(DPI[0] <= one <= DPI[1] for one in (across, down)):
            return across, down
        return self._limits.pdf_dpi, self._limits.pdf_dpi

    def _as_it_is(self, pdf: pikepdf.Pdf) -> tuple[Stream, tuple[int, int], int]:
        width, height = self._header.size
        check_pixels(width, height, self._limits)
        orientation = self._header.getexif().get(EXIF_ORIENTATION, 1)
        orientation = orientation if orientation in LAID else 1
        self._source.seek(0)
        space = Name.DeviceGray if self._header.mode == "L" else Name.DeviceRGB
        picture = _picture(pdf, self._source.read(), (width, height), space, Filter=Name.DCTDecode)
        return picture, (width, height) if orientation < 5 else (height, width), orientation

    def _without_loss(self, pdf: pikepdf.Pdf, number: int) -> tuple[Stream, tuple[int, int], int]:
        drawn: list[Pixels] = []

        def allocate(width: int, height: int) -> Pixels:
            drawn.append(np.empty((height, width, 3), np.uint8))
            return drawn[0]

        self._document.draw(number, allocate)
        pixels = drawn.pop()
        height, width, _ = pixels.shape
        channels = 1 if _is_grey(pixels) else 3
        options: dict[str, Any] = {"Filter": Name.FlateDecode}
        if channels == 1 and _is_black_and_white(pixels):
            data, bits = b"".join(_bits(pixels)), 1
        else:
            data, bits = _rows(pixels, channels), 8
            options["DecodeParms"] = Dictionary(Predictor=PNG_ROWS, Colors=channels, Columns=width)
        space = Name.DeviceGray if channels == 1 else Name.DeviceRGB
        return _picture(pdf, data, (width, height), space, bits, **options), (width, height), 1


def _picture(
    pdf: pikepdf.Pdf, data: bytes, size: tuple[int, int], space: pikepdf.Object, bits: int = 8, **options: Any
) -> Stream:
    return Stream(
        pdf,
        data,
        Type=Name.XObject,
        Subtype=Name.Image,
        Width=size[0],
        Height=size[1],
        ColorSpace=space,
        BitsPerComponent=bits,
        **options,
    )


def _bands(pixels: Pixels) -> Iterator[Pixels]:
    return (pixels[top : top + BAND_ROWS] for top in range(0, len(pixels), BAND_ROWS))


def _is_grey(pixels: Pixels) -> bool:
    return all((band[..., :1] == band[..., 1:]).all() for band in _bands(pixels))


def _is_black_and_white(pixels: Pixels) -> bool:
    return all(np.isin(band[..., 0], (0, 255)).all() for band in _bands(pixels))


def _bits(pixels: Pixels) -> Iterator[bytes]:
    deflate = zlib.compressobj()
    for band in _bands(pixels):
        yield deflate.compress(np.packbits(band[..., 0] > 0, axis=1).tobytes())
    yield deflate.flush()


def _rows(pixels: Pixels, channels: int) -> bytes:
    """Drawings are smaller as they are, photographs with the filter: a band from the middle tells which."""
    top = max(0, (len(pixels) - BAND_ROWS) // 2)
    band = pixels[top : top + BAND_ROWS]
    tried = {filter: sum(map(len, _filtered(band, channels, filter))) for filter in (AS_IT_IS, UP)}
    better = min(tried, key=tried.__getitem__)
    return b"".join(_filtered(pixels, channels, better))


def _filtered(pixels: Pixels, channels: int, filter: int) -> Iterator[bytes]:
    deflate = zlib.compressobj()
    above = np.zeros(pixels.shape[1] * channels, np.uint8)
    for band in _bands(pixels):
        rows = band[..., :channels].reshape(len(band), -1)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = filter
        filtered[:, 1:] = rows
        if filter == UP:
            filtered[0, 1:] -= above
            filtered[1:, 1:] -= rows[:-1]
            above = rows[-1]
        yield deflate.compress(filtered.tobytes())
    yield deflate.flush()
