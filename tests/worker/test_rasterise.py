"""Documents become RGB pages, whatever their format; hostile ones become one clear error, and the next page is read."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pikepdf
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from producer.errors import (
    CorruptDocument,
    DeadlineExceeded,
    EncryptedDocument,
    ImageTooLarge,
    Internal,
    OcrpoolError,
    PageTimeout,
    TooManyPages,
    Unavailable,
    UnsupportedMediaType,
)
from producer.job import MediaType
from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings
from tests.documents import pdf, tiff
from worker import decoder
from worker.decoder import Decoder
from worker.rasterise import Rasteriser

PATIENCE_S = 30.0

#: Each sample with a ground truth beside it.
SAMPLES = [
    path
    for path in sorted((Path(__file__).parents[1] / "samples").iterdir())
    if path.suffix != ".txt" and path.with_suffix(".txt").exists()
]

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


@pytest.fixture(scope="module")
def rasteriser() -> Iterator[Rasteriser]:
    with running(Settings(rasterise_processes=2)) as rasteriser:
        yield rasteriser


@contextmanager
def running(settings: Settings) -> Iterator[Rasteriser]:
    rasteriser = Rasteriser(settings)
    rasteriser.start()
    try:
        yield rasteriser
    finally:
        rasteriser.stop()


Saver = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Saver:
    """Writes bytes, or an image in some format, to a file of the test's own."""

    def save(content: bytes | Image.Image, format: str = "", **options: object) -> Path:
        path = tmp_path / f"document-{len(list(tmp_path.iterdir()))}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, format, **options)
        return path

    return save


def read(rasteriser: Rasteriser, path: Path, page: int = 1) -> tuple[NDArray[np.uint8], int]:
    """The page's pixels, copied, and its angle."""
    with path.open("rb") as file:
        media_type = sniff(file.read(SNIFF_BYTES))
    with rasteriser.page(path, media_type, page) as raster:
        assert raster.pixels.shape == (raster.height, raster.width, 3)
        return raster.pixels.copy(), raster.angle


def marked() -> Image.Image:
    """A white page, 60 x 40, with a red mark in its top left corner."""
    image = Image.new("RGB", (60, 40), WHITE)
    ImageDraw.Draw(image).rectangle((0, 0, 15, 9), fill=RED)
    return image


class TestFormats:
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG"])
    def test_each_image_format(self, rasteriser: Rasteriser, save: Saver, format: str) -> None:
        options = {"lossless": True} if format == "WEBP" else {}
        pixels, angle = read(rasteriser, save(marked(), format, **options))

        tolerance = 8 if format == "JPEG" else 0
        assert angle == 0
        assert np.abs(pixels.astype(int) - np.asarray(marked())).max() <= tolerance or format == "JPEG"
        assert np.abs(pixels[5, 5].astype(int) - RED).max() <= tolerance
        assert np.abs(pixels[35, 50].astype(int) - WHITE).max() <= tolerance

    @pytest.mark.parametrize(
        ("format", "mode"),
        [("PNG", mode) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
        + [("TIFF", mode) for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "I", "F")],
    )
    def test_each_colour_mode(self, rasteriser: Rasteriser, save: Saver, format: str, mode: str) -> None:
        # Given a grey ramp, or black and white where there is no grey
        ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
        if mode == "1":
            ramp = np.where(ramp < 128, 0, 255).astype(np.uint8)
        if mode in ("I;16", "I", "F"):
            deep: dict[str, NDArray[Any]] = {
                "I;16": ramp.astype(np.uint16) * 257,
                "I": ramp.astype(np.int32) * 257,
                "F": ramp / np.float32(252),
            }
            image = Image.fromarray(deep[mode])
        else:
            image = Image.fromarray(ramp).convert("RGB" if mode == "CMYK" else "L").convert(mode)

        pixels, _ = read(rasteriser, save(image, format))

        expected = np.repeat(ramp[:, :, None], 3, axis=2).astype(int)
        slack = 3 if mode == "F" else 1  # its brightest value becomes white
        assert np.abs(pixels.astype(int) - expected).max() <= slack

    def test_cmyk_jpeg(self, rasteriser: Rasteriser, save: Saver) -> None:
        pixels, _ = read(rasteriser, save(marked().convert("CMYK"), "JPEG", quality=95))

        assert pixels[35, 50].min() > 240
        assert pixels[5, 5, 0] > 200
        assert pixels[5, 5, 1:].max() < 60

    def test_what_is_transparent_is_white(self, rasteriser: Rasteriser, save: Saver) -> None:
        image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (0, 0, 10, 10))
        image.putpixel((15, 5), (0, 0, 0, 128))

        pixels, _ = read(rasteriser, save(image, "PNG"))

        assert tuple(pixels[5, 5]) == BLACK
        assert tuple(pixels[5, 18]) == WHITE
        assert 126 <= pixels[5, 15, 0] <= 128

    def test_a_transparent_palette_colour_is_white(self, rasteriser: Rasteriser, save: Saver) -> None:
        pixels, _ = read(rasteriser, save(marked().quantize(4), "GIF", transparency=0))
        assert set(map(tuple, pixels.reshape(-1, 3).tolist())) <= {WHITE, RED}

    @pytest.mark.parametrize("format", ["GIF", "PNG"])
    def test_only_the_first_frame_of_an_animation(self, rasteriser: Rasteriser, save: Saver, format: str) -> None:
        path = save(marked(), format, save_all=True, append_images=[Image.new("RGB", (60, 40), BLACK)])

        pixels, _ = read(rasteriser, path)

        assert rasteriser.count_pages(path, MediaType(f"image/{format.lower()}")) == 1
        assert np.array_equal(pixels, np.asarray(marked()))

    def test_every_page_of_a_tiff_in_any_order(self, rasteriser: Rasteriser, save: Saver) -> None:
        shades = [Image.new("L", (30 + 10 * page, 20), 50 * page) for page in range(4)]
        path = save(shades[0], "TIFF", save_all=True, append_images=shades[1:])

        assert rasteriser.count_pages(path, MediaType.TIFF) == 4
        for page in (3, 0, 2, 1):
            pixels, _ = read(rasteriser, path, page + 1)
            assert pixels.shape == (20, 30 + 10 * page, 3)
            assert (pixels == 50 * page).all()
        with pytest.raises(CorruptDocument, match="no page 5"):
            read(rasteriser, path, 5)

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, rasteriser: Rasteriser, save: Saver, orientation: int, format: str) -> None:
        # Given a page stored so that the orientation undoes it
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # values of Image.Transpose
        upright = marked()
        stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if format == "WEBP" else {}

        pixels, angle = read(rasteriser, save(stored, format, exif=exif, **options))

        assert np.array_equal(pixels, np.asarray(upright))
        assert angle == {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}[orientation]


class TestPdf:
    def test_a_page_is_rendered_at_the_configured_resolution(self, rasteriser: Rasteriser, save: Saver) -> None:
        # Given an A4 page with a red square, one inch wide, in its top left corner
        path = save(pdf((595, 842), content=b"1 0 0 rg 0 770 72 72 re f"))

        pixels, angle = read(rasteriser, path)

        assert pixels.shape == (1755, 1240, 3)
        assert angle == 0
        assert tuple(pixels[75, 75]) == RED
        assert tuple(pixels[75, 155]) == WHITE

    def test_a_rotated_page_stands_upright(self, rasteriser: Rasteriser, save: Saver) -> None:
        pixels, angle = read(rasteriser, save(pdf((72, 144), content=b"1 0 0 rg 0 0 36 36 re f", rotate=90)))

        assert pixels.shape == (150, 300, 3)
        assert angle == 90
        assert tuple(pixels[20, 20]) == RED

    def test_a_large_page_gets_a_lower_resolution(self, save: Saver) -> None:
        settings = Settings(rasterise_processes=1, max_page_pixels=1_000_000)
        with running(settings) as small:
            pixels, _ = read(small, save(pdf((2000, 1000))))
        height, width, _ = pixels.shape
        assert 990_000 < height * width <= 1_000_000
        assert abs(width / height - 2) < 0.01

    def test_pages_of_one_document_from_many_threads(self, rasteriser: Rasteriser, save: Saver) -> None:
        path = save(pdf(*((72 + page, 72) for page in range(20))))
        assert rasteriser.count_pages(path, MediaType.PDF) == 20

        with ThreadPoolExecutor(8) as threads:
            widths = list(threads.map(lambda page: read(rasteriser, path, page)[0].shape[1], range(1, 21)))

        assert widths == [-(-(72 + page) * 150 // 72) for page in range(20)]

    def test_the_text_of_filled_in_fields_is_drawn(self, rasteriser: Rasteriser, save: Saver) -> None:
        file = io.BytesIO()
        with pikepdf.new() as document:
            page = document.add_blank_page(page_size=(100, 100))
            look = document.make_stream(b"1 0 0 rg 0 0 50 50 re f")
            look.Subtype, look.BBox = pikepdf.Name.Form, pikepdf.Array([0, 0, 50, 50])
            field = pikepdf.Dictionary(
                Type=pikepdf.Name.Annot,
                Subtype=pikepdf.Name.Widget,
                FT=pikepdf.Name.Tx,
                T="name",
                V="x",
                F=4,
                Rect=[0, 0, 50, 50],
                AP=pikepdf.Dictionary(N=look),
            )
            widget = document.make_indirect(field)
            page.Annots = pikepdf.Array([widget])
            document.Root.AcroForm = pikepdf.Dictionary(Fields=pikepdf.Array([widget]))
            document.save(file)

        pixels, _ = read(rasteriser, save(file.getvalue()))

        assert tuple(pixels[-20, 20]) == RED


def png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel whose rows are all black; the pixels are made row by row, never as a whole."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + width // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(7)
    Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


def encrypted_pdf() -> bytes:
    return pdf((100, 100), encryption=pikepdf.Encryption(user="secret", owner="owner"))


def header_only(kind: str) -> bytes:
    """The first bytes of an image of 60,000 x 60,000 (WebP: 16,383 x 16,383) and nothing behind them."""
    if kind == "bmp":
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0`\xea`\xea\0\x02\x01\0\0;"
    if kind == "webp":
        lossless = b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(16)
        return (
            b"RIFF" + struct.pack("<I", 12 + len(lossless)) + b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless
        )
    file = io.BytesIO()
    Image.new("L", (10, 10)).save(file, kind)
    data = file.getvalue()
    if kind == "jpeg":
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]
    width, height = struct.pack("<HHII", 256, 4, 1, 10), struct.pack("<HHII", 257, 4, 1, 10)
    huge = struct.pack("<I", 60_000)
    return data.replace(width, width[:8] + huge).replace(height, height[:8] + huge)


BAD_INPUT: dict[str, tuple[Callable[[], bytes], type[OcrpoolError], str]] = {
    "zero bytes": (lambda: b"", CorruptDocument, "The document is empty."),
    "text": (lambda: b"Dear Sir or Madam,\n", UnsupportedMediaType, "neither a PDF nor"),
    "truncated JPEG": (truncated_jpeg, CorruptDocument, "damaged or cut short"),
    "truncated PNG": (lambda: png(4000, 4000)[:-200], CorruptDocument, "damaged or cut short"),
    "corrupt PDF": (lambda: b"%PDF-1.7\n" + os.urandom(2000), CorruptDocument, "could not be opened"),
    "PDF without pages": (pdf, CorruptDocument, "could not be opened"),
    "encrypted PDF": (encrypted_pdf, EncryptedDocument, "protected by a password"),
    "3,000 pages": (lambda: pdf(*[(72, 72)] * 3000), TooManyPages, "more than 2,000 pages"),
    "50,000 x 50,000 PNG": (lambda: png(50_000, 50_000), ImageTooLarge, "50,000 x 50,000 pixels"),
    "huge PDF page": (lambda: pdf((20_000, 72)), ImageTooLarge, "at most 14,400"),
    "60,000 x 60,000 BMP": (lambda: header_only("bmp"), ImageTooLarge, "60,000 x 60,000"),
    "60,000 x 60,000 GIF": (lambda: header_only("gif"), ImageTooLarge, "60,000 x 60,000"),
    "60,000 x 60,000 JPEG": (lambda: header_only("jpeg"), ImageTooLarge, "60,000 x 60,000"),
    "60,000 x 60,000 TIFF": (lambda: header_only("tiff"), ImageTooLarge, "60,000 x 60,000"),
    "16,383 x 16,383 WebP": (lambda: header_only("webp"), ImageTooLarge, "16,383 x 16,383"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_has_a_code_and_a_clear_sentence(rasteriser: Rasteriser, save: Saver, name: str) -> None:
    make, error, sentence = BAD_INPUT[name]
    path = save(make())

    with pytest.raises(error, match=sentence):
        count_then_read(rasteriser, path)

    # And the next document is read as if nothing had been
    assert read(rasteriser, save(marked(), "PNG"))[0].shape == (40, 60, 3)


def count_then_read(rasteriser: Rasteriser, path: Path) -> None:
    """What the pool does with a document."""
    media_type = sniff(path.read_bytes()[:SNIFF_BYTES])
    for page in range(1, rasteriser.count_pages(path, media_type) + 1):
        rasteriser.page(path, media_type, page).close()


def test_a_pdf_that_unpacks_to_more_than_its_memory_costs_its_page_alone(save: Saver) -> None:
    # Given a page whose content unpacks to 400 MB, and decoders that may take 128 MiB
    file = io.BytesIO()
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(100, 100))
        packer = zlib.compressobj(9)
        spaces = b" " * (1 << 20)
        data = b"".join(packer.compress(spaces) for _ in range(400)) + packer.flush()
        page.Contents = pikepdf.Stream(document, data, Filter=pikepdf.Name.FlateDecode)
        document.save(file, compress_streams=False)
    bomb, honest = save(file.getvalue()), save(pdf((100, 100)))

    with running(Settings(rasterise_processes=1, rasterise_memory_bytes=1 << 27)) as rasteriser:
        with pytest.raises((ImageTooLarge, CorruptDocument)):
            read(rasteriser, bomb)
        assert read(rasteriser, honest)[0].shape == (209, 209, 3)


@pytest.mark.parametrize("memory_bytes", [1 << 27, 1 << 28])
def test_a_page_is_too_large_whether_its_own_pixels_or_what_leads_to_them_find_no_room(
    save: Saver, memory_bytes: int
) -> None:
    path = save(tiff(["first", "huge", "last"], huge=2))
    with running(Settings(rasterise_processes=1, rasterise_memory_bytes=memory_bytes)) as rasteriser:
        with pytest.raises(ImageTooLarge, match="more memory than one page may take"):
            read(rasteriser, path, 2)
        assert read(rasteriser, path, 3)[0].shape == (96, 320, 3)


@pytest.fixture
def lone() -> Iterator[Rasteriser]:
    """One decoder that is warm and stands still: what it is asked next stays unanswered."""
    with running(Settings(rasterise_processes=1, page_timeout_s=0.2)) as rasteriser:
        yield rasteriser


def freeze(rasteriser: Rasteriser, warm_up: Path) -> int:
    read(rasteriser, warm_up)
    [pid] = rasteriser.pids
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_page_that_takes_too_long_is_given_up(lone: Rasteriser, save: Saver) -> None:
    path = save(marked(), "PNG")
    frozen = freeze(lone, path)

    with pytest.raises(PageTimeout, match=r"longer than 0\.2 s"):
        read(lone, path)

    assert not psutil.pid_exists(frozen)
    assert read(lone, path)[0].shape == (40, 60, 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a decoder has been sent a request."""
    sent = threading.Event()
    send_fds = socket.send_fds

    def send(channel: socket.socket, buffers: list[bytes], fds: list[int]) -> int:
        size = send_fds(channel, buffers, fds)
        sent.set()
        return size

    monkeypatch.setattr(socket, "send_fds", send)
    return sent


def test_a_decoder_killed_in_the_middle_of_a_page_costs_that_page_alone(save: Saver, asked: threading.Event) -> None:
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        pid = freeze(rasteriser, path)
        asked.clear()
        with ThreadPoolExecutor(1) as thread:
            page = thread.submit(read, rasteriser, path)
            assert asked.wait(PATIENCE_S)
            os.kill(pid, signal.SIGSEGV)
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(CorruptDocument):
                page.result(PATIENCE_S)
        assert read(rasteriser, path)[0].shape == (40, 60, 3)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_page_whose_decoder_was_killed_from_outside_is_tried_once_more(
    kills: int, save: Saver, asked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, start = save(marked(), "PNG"), Decoder.start

    def start_and_stop(decoder: Decoder) -> None:
        start(decoder)
        decoder.wait_until_ready()
        os.kill(decoder.pid or 0, signal.SIGSTOP)

    with running(Settings(rasterise_processes=1)) as rasteriser, ThreadPoolExecutor(1) as thread:
        freeze(rasteriser, path)
        asked.clear()
        page = thread.submit(read, rasteriser, path)
        for left in reversed(range(kills)):
            assert asked.wait(PATIENCE_S)
            asked.clear()
            monkeypatch.setattr(Decoder, "start", start_and_stop if left else start)
            os.kill(rasteriser.pids[0], signal.SIGKILL)
        if kills == 1:
            assert page.result(PATIENCE_S)[0].shape == (40, 60, 3)
        else:
            with pytest.raises(Internal):
                page.result(PATIENCE_S)
        assert read(rasteriser, path)[0].shape == (40, 60, 3)


def test_signals_to_the_workers_group_are_not_for_its_decoders(save: Saver) -> None:
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        read(rasteriser, path)
        [pid] = rasteriser.pids
        assert os.getpgid(pid) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        assert read(rasteriser, path)[0].shape == (40, 60, 3)
        assert rasteriser.pids == [pid]


def test_a_decoder_that_died_while_idle_costs_nothing(lone: Rasteriser, save: Saver) -> None:
    path = save(marked(), "PNG")
    read(lone, path)
    [pid] = lone.pids
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead; its exit status stays for the pool

    assert read(lone, path)[0].shape == (40, 60, 3)
    assert lone.pids != [pid]


def test_a_decoder_that_died_while_it_started_costs_nothing(save: Saver) -> None:
    # Given two decoders, of which only the first is waited for
    with running(Settings(rasterise_processes=2)) as rasteriser:
        os.kill(rasteriser.pids[1], signal.SIGKILL)

        # Then two documents are read, the second by the decoder that was idle longest
        for _ in range(2):
            assert read(rasteriser, save(marked(), "PNG"))[0].shape == (40, 60, 3)


def test_decoders_run_with_limits_and_without_the_workers_secrets(save: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCRPOOL_FLOWER_BASIC_AUTH", "user:secret")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        read(rasteriser, save(marked(), "PNG"))
        [pid] = rasteriser.pids
        child = psutil.Process(pid)
        assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_NOFILE)[0] <= 64
        assert 1 << 30 < child.rlimit(psutil.RLIMIT_AS)[0] < 2 << 30
        assert 0 < child.rlimit(psutil.RLIMIT_CPU)[0] < 120
        assert "OCRPOOL_FLOWER_BASIC_AUTH" not in child.environ()


def test_a_decoder_is_replaced_after_so_many_pages(save: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "REQUESTS_A_CHILD", 3)
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        pids = []
        for _ in range(7):
            pids += rasteriser.pids
            assert read(rasteriser, path)[0].shape == (40, 60, 3)
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_a_page_that_took_all_its_cpu_time_is_given_up(save: Saver, asked: threading.Event) -> None:
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser, ThreadPoolExecutor(1) as thread:
        pid = freeze(rasteriser, path)
        asked.clear()
        page = thread.submit(read, rasteriser, path)
        assert asked.wait(PATIENCE_S)
        os.kill(pid, signal.SIGXCPU)  # what the kernel sends then
        os.kill(pid, signal.SIGCONT)
        assert isinstance(page.exception(PATIENCE_S), PageTimeout)


def test_closed_pages_give_their_memory_back(save: Saver) -> None:
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        page = rasteriser.page(path, MediaType.PNG, 1)
        view = page.pixels[:5]
        page.close()
        # A view that is still in use stays valid
        assert tuple(view[0, 0]) == RED
        del view
        with pytest.raises(ValueError, match="closed"):
            _ = page.pixels
        for pid in (os.getpid(), *rasteriser.pids):
            assert "memfd:page" not in Path(f"/proc/{pid}/maps").read_text()


def test_nothing_is_left_after_stop(save: Saver) -> None:
    me = psutil.Process()
    before, children = me.num_fds(), set(me.children())
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=2)) as rasteriser:
        read(rasteriser, path)
        with pytest.raises(CorruptDocument):
            read(rasteriser, save(truncated_jpeg()))
        threads = threading.active_count()
    assert threading.active_count() < threads
    assert me.num_fds() == before
    assert set(me.children()) == children
    with pytest.raises(Unavailable):
        read(rasteriser, path)


def test_stop_does_not_wait_for_a_page_that_hangs(save: Saver, asked: threading.Event) -> None:
    path = save(marked(), "PNG")
    with running(Settings(rasterise_processes=1)) as rasteriser:
        freeze(rasteriser, path)
        asked.clear()
        with ThreadPoolExecutor(1) as thread:
            page = thread.submit(read, rasteriser, path)
            assert asked.wait(PATIENCE_S)
            rasteriser.stop()
            assert isinstance(page.exception(PATIENCE_S), Unavailable)


def test_counting_honours_the_deadline(lone: Rasteriser, save: Saver) -> None:
    with pytest.raises(DeadlineExceeded):
        lone.count_pages(save(marked(), "PNG"), MediaType.PNG, deadline=0.0)


def test_no_decoder_survives_its_worker(tmp_path: Path) -> None:
    # Given a process with decoders, which is killed without a chance to stop them
    script = (
        "import sys, time\n"
        "from producer.settings import Settings\n"
        "from worker.rasterise import Rasteriser\n"
        "rasteriser = Rasteriser(Settings(rasterise_processes=2))\n"
        "rasteriser.start()\n"
        "print('pids', *rasteriser.pids, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        pids = next(line.split()[1:] for line in worker.stdout if line.startswith("pids"))
        decoders = [psutil.Process(int(pid)) for pid in pids]
        worker.kill()

    gone, alive = psutil.wait_procs(decoders, timeout=PATIENCE_S)
    assert len(gone) == 2
    assert not alive


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_has_the_pages_of_its_ground_truth(rasteriser: Rasteriser, path: Path) -> None:
    pages = path.with_suffix(".txt").read_text(encoding="utf-8").split("\f")

    assert rasteriser.count_pages(path, sniff(path.read_bytes()[:SNIFF_BYTES])) == len(pages)
    for number in range(1, len(pages) + 1):
        pixels, _ = read(rasteriser, path, number)
        assert pixels.min() < 60  # ink
        assert pixels.max() > 180  # paper


def test_decoders_import_from_where_their_worker_does(tmp_path: Path) -> None:
    # Given a worker that finds its packages through the environment alone
    (tmp_path / "only_here.py").write_text("")
    code = "from worker import decoder; print(decoder.IMPORT_PATH)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    listed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert str(tmp_path) in json.loads(listed.stdout)
    assert "" not in json.loads(listed.stdout)


def test_decoders_that_cannot_start_keep_the_worker_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    command = list(decoder.COMMAND)
    command[5] = json.dumps([path for path in sys.path if path and "site-packages" not in path])
    monkeypatch.setattr(decoder, "COMMAND", tuple(command))
    rasteriser = Rasteriser(Settings(rasterise_processes=1))

    try:
        with pytest.raises(Unavailable, match=r"cannot start: ModuleNotFoundError: No module named"):
            rasteriser.start()
    finally:
        rasteriser.stop()
