"""Searchable PDFs and overlays, made by real children: text where it was read, and pages that look as they did."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pikepdf
import pypdfium2
import pytest
from numpy.typing import NDArray
from PIL import Image

from producer import exporting
from producer.errors import (
    CorruptDocument,
    EncryptedDocument,
    FormatUnavailable,
    ImageTooLarge,
    NotFound,
    OcrpoolError,
    PageTimeout,
    TooLarge,
    Unavailable,
)
from producer.exporting import Exporter
from producer.job import Job, JobResult, MediaType, PageOutcome, PageResult, Quad
from producer.media import sniff
from producer.settings import Settings
from tests.documents import encoded, pdf, picture, tiff
from tests.hostile.documents import pdf_nested, pdf_of_itself, pdf_of_junk, pdf_with_script_and_attachment
from tests.producer.formats.results import box, failed, job, line, read, result
from tests.worker import glyphless
from worker.decoder import Decoder
from worker.decoding.images import AS_STORED, EXIF_ORIENTATION
from worker.decoding.sandbox import WALLS
from worker.exporting.text_layer import FONT

#: Mostly black in one corner, so that a turned picture is told from an upright one.
CORNER = picture("corner")
CORNER.paste("black", (0, 0, 90, 30))


def exported(
    folder: Path, document: bytes, *pages: PageOutcome, settings: Settings | None = None
) -> pypdfium2.PdfDocument:
    """The searchable PDF of a document on which the pages were read."""
    path, asked, found = written(folder, document, *pages)
    with Exporter(settings or Settings()).searchable_pdf(path, asked, found) as file:
        return pypdfium2.PdfDocument(file.read())


def written(folder: Path, document: bytes, *pages: PageOutcome) -> tuple[Path, Job, JobResult]:
    path = folder / "document"
    path.write_bytes(document)
    found = result(*pages)
    return path, job(found, sniff(document)), found


def text_of(document: pypdfium2.PdfDocument, page: int = 0) -> str:
    return str(document[page].get_textpage().get_text_range())


def said_at(document: pypdfium2.PdfDocument, where: Quad, size: tuple[int, int], page: int = 0) -> str:
    """What a reader copies who marks the box of `where` on the page as shown, in pixels of a page of `size`."""
    shown = document[page]
    (left, bottom, right, top), rotation = shown.get_bbox(), shown.get_rotation()
    corners = []
    for x, y in where:
        u, v = x / size[0], y / size[1]
        u, v = {0: (u, 1 - v), 90: (v, u), 180: (1 - u, v), 270: (1 - v, 1 - u)}[rotation]
        corners.append((left + u * (right - left), bottom + v * (top - bottom)))
    across, down = [x for x, _ in corners], [y for _, y in corners]
    marked = shown.get_textpage().get_text_bounded(min(across), min(down), max(across), max(down))
    return str(marked).strip()


def pixels(document: pypdfium2.PdfDocument, page: int, size: tuple[int, int]) -> NDArray[np.int16]:
    shown = document[page].render(scale=size[0] / document[page].get_width()).to_pil().convert("RGB")
    return np.asarray(shown.resize(size), np.int16)


UPRIGHT: Quad = ((100, 100), (500, 100), (500, 140), (100, 140))
SLANTED: Quad = ((100, 300), (490, 340), (486, 380), (96, 340))
TALL: Quad = ((600, 100), (640, 100), (640, 500), (600, 500))


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (50, 20, 250, 320)], ids=["whole", "cropped"])
def test_text_lies_where_it_was_read_however_the_page_is_turned(
    tmp_path: Path, rotate: int, crop: tuple[int, ...] | None
) -> None:
    file = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf((300, 400), rotate=rotate))) as document:
        if crop:
            document.pages[0].CropBox = pikepdf.Array(crop)
        document.save(file)
    size = (800, 1000)
    lines = [
        line("Quay 12", UPRIGHT),
        line("slanted 合计 text", SLANTED),
        line("downwards", TALL),
        line("7", box(700, 800, 30, 40)),
    ]
    made = exported(tmp_path, file.getvalue(), read(1, [[one] for one in lines], width=size[0], height=size[1]))
    for one in lines:
        assert said_at(made, one.quad, size) == one.text
    assert said_at(made, box(0, 600, 650, 300), size) == ""


def test_letters_of_any_script_are_copied_as_they_were_read(tmp_path: Path) -> None:
    wanted = [
        "产品试用记录 合计12.50元",
        "日本語のテキスト",
        "한국어 텍스트",
        "Ελληνικά кириллица",
        "naïve façade €5",
        "𠮷野家 😀",
        "(a\\b) <c>",
    ]
    page = read(1, [[line(text, box(40, 40 + 60 * n, 30 * len(text), 40))] for n, text in enumerate(wanted)])
    made = exported(tmp_path, encoded(Image.new("RGB", (800, 1000), "white"), "PNG"), page)
    assert [one.strip() for one in text_of(made).split("\n")] == wanted


def test_text_runs_the_way_that_its_letters_stand(tmp_path: Path) -> None:
    """The places of the letters along a tall line, one that stands upside down, and one that is both."""
    ways = {"down": (TALL, 0), "left": (UPRIGHT, 180), "up": (box(700, 100, 40, 400), 180)}
    page = read(1, [[line(text, quad, angle=angle)] for text, (quad, angle) in ways.items()])
    made = exported(tmp_path, encoded(Image.new("RGB", (800, 1000), "white"), "PNG"), page)
    text = made[0].get_textpage()
    places = {text.get_text_range(n, 1): text.get_charbox(n) for n in range(text.count_chars())}
    assert places["d"][1] > places["n"][1]  # PDF's y runs upwards.
    assert places["l"][0] > places["t"][0]
    assert places["u"][1] < places["p"][1]


def test_a_page_that_says_it_already_is_not_told_twice(tmp_path: Path) -> None:
    # Given a page with a line of its own, and a picture of another one
    own = b"BT /F 20 Tf 50 340 Td (Already there) Tj ET"
    file = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf((300, 400), content=own))) as document:
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        document.pages[0].Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
        document.save(file)
    there, stamp = line("Alreadv there", box(45, 40, 140, 25)), line("PAID", box(50, 200, 60, 30))
    # When both were read, one of them with a slip
    made = exported(tmp_path, file.getvalue(), read(1, [[there], [stamp]], width=300, height=400))
    # Then the document's own words stand, once, and what was only a picture is added
    assert sorted(text_of(made).split()) == ["Already", "PAID", "there"]


def test_a_pdf_keeps_its_pages_as_they_look(tmp_path: Path) -> None:
    # The content leaves the graphics state turned upside down, and one restore too many.
    content = b"Q q 1 0 0 rg 20 20 100 50 re f 0 0 1 RG 5 w 0 0 m 300 400 l S 1 0 0 -1 0 400 cm 3 Tr"
    document = pdf((300, 400), (200, 100), content=content)
    made = exported(tmp_path, document, read(1, [[line("one", UPRIGHT)]]), read(2, [[line("two", UPRIGHT)]]))
    before = pypdfium2.PdfDocument(document)
    assert len(made) == 2
    for page, (size, text) in enumerate([((300, 400), "one"), ((200, 100), "two")]):
        assert (pixels(made, page, size) == pixels(before, page, size)).all()
        assert said_at(made, UPRIGHT, (800, 1000), page) == text


@pytest.mark.parametrize("orientation", sorted(AS_STORED))
def test_a_jpeg_goes_in_as_it_is_and_stands_upright(tmp_path: Path, orientation: int) -> None:
    # Given a photograph that its camera stored turned or mirrored
    upright = np.asarray(CORNER)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED[orientation](upright.copy())))
    document = encoded(stored, "JPEG", quality=95, exif=exif)
    size = CORNER.size
    # When it is exported
    made = exported(
        tmp_path, document, read(1, [[line("corner", box(10, 30, 150, 40))]], width=size[0], height=size[1])
    )
    # Then it looks as it is read, and its bytes are in the file
    assert np.abs(pixels(made, 0, size) - upright).mean() < 8
    assert said_at(made, box(10, 30, 150, 40), size) == "corner"
    [image] = made[0].get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
    assert bytes(image.get_data()) == document


COLOURFUL = Image.fromarray(np.random.default_rng(1).integers(0, 256, (601, 403, 3), np.uint8))


@pytest.mark.parametrize(
    "image",
    [CORNER, COLOURFUL, COLOURFUL.convert("L"), CORNER.convert("1"), COLOURFUL.convert("CMYK"), COLOURFUL.convert("P")],
    ids=["drawing", "photograph", "grey", "black and white", "CMYK", "palette"],
)
def test_other_pictures_lose_nothing(tmp_path: Path, image: Image.Image) -> None:
    document = encoded(image, "TIFF", dpi=(300, 300))
    made = exported(tmp_path, document, read(1, [[line("x", box(0, 0, 9, 9))]], width=image.width, height=image.height))
    assert made[0].get_size() == pytest.approx((image.width * 72 / 300, image.height * 72 / 300), abs=0.01)
    [inside] = made[0].get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
    kept = inside.get_bitmap().to_pil().convert("RGB")
    assert (np.asarray(kept) == np.asarray(image.convert("RGB"))).all()


def test_a_scan_has_all_its_pages_also_those_that_were_not_read(tmp_path: Path) -> None:
    made = exported(tmp_path, tiff(["one", "two", "three"]), read(1, [[line("one", UPRIGHT)]]), failed(2), failed(3))
    assert len(made) == 3
    assert [text_of(made, page).strip() for page in range(3)] == ["one", "", ""]
    assert (pixels(made, 1, (320, 96)) != 255).any()


def test_a_page_that_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    # Given a fax whose second page is damaged
    pages = [picture("one"), picture("two")]
    document = bytearray(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate"))
    with Image.open(io.BytesIO(document)) as image:
        image.seek(1)
        offset = image.tag_v2[273][0]  # type: ignore[attr-defined]
    document[offset : offset + 100] = bytes(100)
    # When it failed, its page gives the reason; when it was read, there is no way to show what was
    first = read(1, [[line("one", UPRIGHT)]])
    assert "Page 2 could not be read: The page is <damaged>" in text_of(
        exported(tmp_path, bytes(document), first, failed(2)), 1
    )
    with pytest.raises(CorruptDocument):
        exported(tmp_path, bytes(document), first, read(2, [[line("two", UPRIGHT)]]))


def overlay_of(folder: Path, document: bytes, page: PageResult) -> Image.Image:
    path, asked, _ = written(folder, document, page)
    with Exporter(Settings()).overlay(path, asked, page) as file:
        return Image.open(io.BytesIO(file.read())).convert("RGB")


def test_an_overlay_is_the_page_with_its_lines(tmp_path: Path) -> None:
    quad = box(10, 30, 150, 40)
    made = overlay_of(tmp_path, encoded(CORNER, "PNG"), read(1, [[line("corner", quad)]], width=320, height=96))
    changed = np.argwhere((np.asarray(made) != np.asarray(CORNER)).any(axis=2))
    assert made.size == CORNER.size
    for x, y in quad[1:]:  # The number hides the first.
        assert made.getpixel((int(x), int(y))) == (0xD8, 0x1B, 0x60)
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (left, right, bottom) == (pytest.approx(10, abs=8), 160, 70)
    assert top < 30


def test_an_overlay_of_a_pdf_is_drawn_as_it_was_read(tmp_path: Path) -> None:
    made = overlay_of(
        tmp_path, pdf((144, 72), rotate=90), read(1, [[line("x", box(10, 10, 50, 20))]], width=150, height=300)
    )
    assert made.size == (150, 300)
    assert made.getpixel((60, 30)) == (0xD8, 0x1B, 0x60)


HOSTILE = {
    "junk": pdf_of_junk("DCTDecode"),
    "scripts": pdf_with_script_and_attachment(),
    "nested": pdf_nested(100_000),
    "of itself": pdf_of_itself(),
    "cut": pdf((300, 400))[:300],
    "no PDF": b"%PDF-1.7\n" + os.urandom(2000),
    "cut PNG": encoded(COLOURFUL, "PNG")[:5000],
}


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_costs_an_error_or_gives_a_pdf(tmp_path: Path, document: bytes) -> None:
    try:
        made = exported(tmp_path, document, read(1, [[line("read", UPRIGHT)]]))
    except CorruptDocument:
        return
    assert said_at(made, UPRIGHT, (800, 1000)) == "read"


def test_a_pdf_with_a_password_is_refused(tmp_path: Path) -> None:
    document = pdf((300, 400), encryption=pikepdf.Encryption(owner="a", user="b"))
    with pytest.raises(EncryptedDocument):
        exported(tmp_path, document, read(1, [[line("read", UPRIGHT)]]))


@pytest.mark.parametrize("revision", [4, 6])
def test_a_pdf_that_needs_no_password_is_written_without_encryption(tmp_path: Path, revision: int) -> None:
    document = pdf((300, 400), encryption=pikepdf.Encryption(owner="a", user="", R=revision))  # type: ignore[arg-type]
    made = exported(tmp_path, document, read(1, [[line("read", UPRIGHT)]]))
    assert pypdfium2.raw.FPDF_GetSecurityHandlerRevision(made) == -1
    assert said_at(made, UPRIGHT, (800, 1000)) == "read"


@pytest.mark.parametrize(
    ("settings", "error", "side"),
    [
        ({"max_page_pixels": 1000}, ImageTooLarge, 100),
        ({"export_bytes": 1000}, TooLarge, 100),
        ({"rasterise_memory_bytes": 1 << 27}, ImageTooLarge, 7000),
        ({"export_timeout_s": 0.001}, PageTimeout, 100),
    ],
    ids=["pixels", "bytes", "memory", "time"],
)
def test_limits_hold(
    tmp_path: Path, settings: dict[str, float], error: type[OcrpoolError], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GRACE_S", 0.001 if error is PageTimeout else 20.0)
    image = Image.new("RGB", (side, side), "white")
    limited = Settings(**settings)  # type: ignore[arg-type]
    with pytest.raises(error):
        exported(tmp_path, encoded(image, "PNG"), read(1, [[line("x", UPRIGHT)]]), settings=limited)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_a_sandbox_that_must_be_there_is_there_or_nothing_is_made(tmp_path: Path, sandbox: str) -> None:
    settings = Settings.model_validate({"sandbox": sandbox})
    asked = pdf((300, 400)), read(1, [[line("x", UPRIGHT)]])
    if sandbox == "on" and len(walls_here()) < len(WALLS):
        with pytest.raises(Unavailable, match="OCRPOOL_SANDBOX is on"):
            exported(tmp_path, *asked, settings=settings)
    else:
        assert text_of(exported(tmp_path, *asked, settings=settings)).strip() == "x"


def walls_here() -> list[str]:
    """What this kernel has of the sandbox, as a decoder tells."""
    decoder = Decoder(Settings())
    try:
        decoder.start()
        decoder.wait_until_ready()
        return decoder.walls
    finally:
        decoder.close()


def test_a_document_that_is_gone_is_not_found(tmp_path: Path) -> None:
    found = result(read(1, [[line("x", UPRIGHT)]]))
    with pytest.raises(NotFound):
        Exporter(Settings()).searchable_pdf(tmp_path / "gone", job(found, MediaType.PDF), found)


def test_a_machine_without_the_libraries_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = [part for part in sys.path if "site-packages" not in part]
    monkeypatch.setattr(exporting, "_COMMAND", [*exporting._COMMAND[:-1], json.dumps(without)])
    with pytest.raises(FormatUnavailable, match="extra `worker`"):
        exported(tmp_path, pdf((300, 400)), read(1, [[line("x", UPRIGHT)]]))


def test_a_full_disk_is_no_fault_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(Unavailable, match="No space left"):
        exported(tmp_path, pdf((300, 400)), read(1, [[line("x", UPRIGHT)]]))


def test_the_font_of_blanks_is_the_one_that_is_made_here() -> None:
    assert glyphless.made() == FONT
