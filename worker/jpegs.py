"""JPEG files decoded on the card, where a setting asks for it. The only module that imports nvImageCodec.

It spares a page the way through the host's memory, and costs the sandbox: NVIDIA's decoder parses the bytes in the
worker itself. What it does not read, the sandboxed decoders read as always.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from producer.errors import EngineOutOfMemory, ImageTooLarge
from producer.job import MediaType
from producer.settings import Settings
from worker.kernels import decoded_page
from worker.rasterise import Raster, Rasteriser

#: Where EXIF data stands (JEITA CP-3451, 4.5.2): a file that has it may have to be turned, which is not done here.
HEADER_BYTES, EXIF = 1 << 16, b"Exif\0\0"

log = structlog.get_logger(__name__)


class CardPage:
    """A page that lies on the card; see `Raster`."""

    angle = 0

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]


class CardJpegs:
    """Decodes JPEG files on the card, and leaves all else to `rasteriser`. Thread-safe."""

    def __init__(self, rasteriser: Rasteriser, settings: Settings) -> None:
        from nvidia import nvimgcodec

        self._rasteriser = rasteriser
        self._most_pixels = settings.max_page_pixels
        self._codec = nvimgcodec
        self._decoder = nvimgcodec.Decoder()
        self._colours = nvimgcodec.DecodeParams(color_spec=nvimgcodec.ColorSpec.SRGB)
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def page(self, path: Path, media_type: MediaType, page: int) -> Iterator[Raster]:
        """Decode one page, counted from 1; see `Rasteriser.page`."""
        pixels = self._decode(path) if media_type == "image/jpeg" else None
        if pixels is not None:
            yield CardPage(pixels)
            return
        with self._rasteriser.page(path, media_type, page) as raster:
            yield raster

    def _decode(self, path: Path) -> Any:
        """The page on the card, or None where the sandboxed decoders have to read it.

        Raises:
            ImageTooLarge: it has too many pixels, told before it is decoded.
        """
        content = path.read_bytes()
        if EXIF in content[:HEADER_BYTES]:
            return None
        try:
            with self._one_at_a_time:
                stream = self._codec.CodeStream(content)
                if stream.codec_name != "jpeg" or stream.num_channels not in (1, 3):
                    return None
                if stream.width * stream.height > self._most_pixels:
                    raise ImageTooLarge(
                        f"The page has {stream.width:,} x {stream.height:,} pixels; "
                        f"at most {self._most_pixels:,} are allowed."
                    )
                return decoded_page(self._decoder.decode(stream, params=self._colours))
        except MemoryError as error:
            raise EngineOutOfMemory from error
        except RuntimeError as error:
            log.info("jpeg.not_on_card", path=str(path), error=str(error))
            return None


def missing() -> str:
    """What keeps JPEG files from being decoded on a card here, or nothing."""
    if find_spec("nvidia") is None or find_spec("nvidia.nvimgcodec") is None:
        return "the package nvidia-nvimgcodec is not installed"
    try:
        from nvidia import nvimgcodec

        nvimgcodec.Decoder()
    except Exception as error:  # a missing library or card
        return f"nvidia-nvimgcodec cannot run: {str(error).partition(chr(10))[0]}"
    return ""
