"""A PDF page's own text: where it lies, what speaks against it, and which pages skip the engine for it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pikepdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from producer.job import Job, MediaType, PageResult, ReadOptions, new_job_id
from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings
from tests.documents import SAMPLES, encoded, pdf, picture, png, truth, written
from tests.hostile.documents import pdf_that_calls_letters
from tests.producer.test_ledger import page_read
from worker import tasks
from worker.engines import PpOcr
from worker.leases import Lease
from worker.own_text import OwnText, similarity
from worker.page_cache import Read
from worker.rasterise import Rasteriser
from worker.station import Station

LETTER = (612, 792)
SENTENCES = (
    "Output followed the tide tables closely.",
    "The turbine was stopped for repairs in May,",
    "and again for eleven days in September.",
    "Divers found no damage to the foundations.",
)
REPORT = SAMPLES / "report.pdf"


@pytest.fixture(scope="module")
def rasteriser() -> Iterator[Rasteriser]:
    rasteriser = Rasteriser(Settings(rasterise_processes=1))
    rasteriser.start()
    yield rasteriser
    rasteriser.stop()


def doubt(rasteriser: Rasteriser, tmp_path: Path, document: bytes) -> str:
    path = tmp_path / "document.pdf"
    path.write_bytes(document)
    return rasteriser.text(path, 1).doubt


def page_of(content: bytes, **options: Any) -> bytes:
    return pdf(LETTER, content=content, **options)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_the_text_of_a_printed_page_is_what_was_printed(rasteriser: Rasteriser, page: int) -> None:
    found = OwnText.of(rasteriser, REPORT, page)
    assert found.doubt == ""
    assert found.as_page(page, 1.0).text.split() == truth(REPORT)[page - 1].split()


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("at", ["1 0 0 1 72 720", "0 1 -1 0 120 72", "-1 0 0 -1 500 320", "0 -1 1 0 300 700"])
def test_its_quads_lie_around_the_ink_as_drawn(rasteriser: Rasteriser, tmp_path: Path, rotate: int, at: str) -> None:
    # Given text in each direction, on a page that is turned and does not begin at 0
    path = tmp_path / "turned.pdf"
    with pikepdf.open(io.BytesIO(page_of(written(*SENTENCES, at=at), rotate=rotate))) as document:
        document.pages[0].MediaBox = pikepdf.Array([-100, -50, 700, 850])
        document.pages[0].CropBox = pikepdf.Array([20, 10, 632, 802])
        document.save(path)

    found = OwnText.of(rasteriser, path, 1)
    result = found.as_page(1, 1.0)
    with rasteriser.page(path, MediaType.PDF, 1) as raster:
        ink = raster.pixels.min(axis=2) < 128
        size = raster.width, raster.height, raster.angle

    assert found.doubt == ""
    assert (result.width, result.height, result.angle) == size
    assert result.text.split("\n") == list(SENTENCES)
    for line in result.lines:
        (left, top), (right, bottom) = np.min(line.quad, axis=0), np.max(line.quad, axis=0)
        inside = ink[int(top) : int(bottom) + 2, int(left) : int(right) + 2]
        assert inside.any()
        # The first corner is the text's top left: its top side runs the way of the text, and is the longer one.
        along, down = (np.subtract(line.quad[n], line.quad[0]) for n in (1, 3))
        assert np.hypot(*along) > 5 * np.hypot(*down)
        ink[int(top) : int(bottom) + 2, int(left) : int(right) + 2] = False
    assert not ink.any()


def scan_over(text: bytes) -> bytes:
    """A page with text, and a scan of another one over it."""
    file = io.BytesIO()
    with pikepdf.open(io.BytesIO(page_of(text + b"q 612 0 0 792 0 0 cm /Scan Do Q"))) as document:
        jpeg = encoded(picture("Scanned words", width=400, height=500), "JPEG")
        scan = document.make_stream(jpeg)
        for name, value in {
            "Type": pikepdf.Name.XObject,
            "Subtype": pikepdf.Name.Image,
            "Width": 400,
            "Height": 500,
            "ColorSpace": pikepdf.Name.DeviceRGB,
            "BitsPerComponent": 8,
            "Filter": pikepdf.Name.DCTDecode,
        }.items():
            scan[f"/{name}"] = value
        document.pages[0].Resources.XObject = pikepdf.Dictionary(Scan=scan)
        document.save(file)
    return file.getvalue()


def with_field(*lines: str, on: bytes | None = None) -> bytes:
    """A page whose form was filled in: what is drawn there is no part of the page's content."""
    file = io.BytesIO()
    with pikepdf.open(io.BytesIO(page_of(TEXT if on is None else on))) as document:
        page = document.pages[0]
        look = document.make_stream(written(*lines, at="1 0 0 1 5 40"))
        look.Subtype, look.BBox = pikepdf.Name.Form, pikepdf.Array([0, 0, 300, 60])
        look.Resources = page.Resources
        field = pikepdf.Dictionary(
            Type=pikepdf.Name.Annot,
            Subtype=pikepdf.Name.Widget,
            FT=pikepdf.Name.Tx,
            T="name",
            F=4,
            Rect=[72, 300, 372, 360],
            AP=pikepdf.Dictionary(N=look),
        )
        widget = document.make_indirect(field)
        page.Annots = pikepdf.Array([widget])
        document.Root.AcroForm = pikepdf.Dictionary(Fields=pikepdf.Array([widget]))
        document.save(file)
    return file.getvalue()


def without_names() -> bytes:
    """The report's Chinese page, whose font has lost the names of its glyphs."""
    file = io.BytesIO()
    with pikepdf.open(REPORT) as document:
        for font in document.pages[2].Resources.Font.values():
            if "/ToUnicode" in font:
                del font["/ToUnicode"]
        del document.pages[3:], document.pages[:2]
        document.save(file)
    return file.getvalue()


def shifted(text: str) -> str:
    """What a font that counts its glyphs from the blank calls the letters."""
    return "".join(chr(ord(letter) - 29) if letter.isalpha() else letter for letter in text)


TEXT = written(*SENTENCES)
FAR = written(*SENTENCES, at="1 0 0 1 -900 300")
SAME_PLACE = written("Another text that lies just there instead")
#: One word of the second line.
BLACKENED = TEXT + b"96 698 42 16 re f"
SLANTED = written("CONFIDENTIAL", at="0.8 0.6 -0.6 0.8 200 200", size=40)
LETTERS = b"".join(written("e", at=f"1 0 0 1 {x} {y}") for x in range(72, 500, 60) for y in range(500, 700, 50))
#: Letters are often drawn as curves in what was made to be printed.
CURVES = b"".join(b"%d %d m %d %d l S " % (x, y, x + 3, y + 8) for y in range(100, 300, 20) for x in range(72, 500, 6))

#: So much text that a word more makes no difference to how much there is.
DENSE = written(*["and so it goes on, letter after letter, until nobody counts them any more " * 2] * 60, size=8)
#: Four letters as curves.
STAMP = b"".join(b"%d 30 m %d 42 l %d 30 l S " % (x, x + 4, x + 7) for x in (300, 309, 318, 327))

DOUBTFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: page_of(b""), "few_characters"),
    "a page number beside nothing": (lambda: page_of(written("Page 12")), "few_characters"),
    "a font without names": (without_names, "unmapped"),
    "a font with wrong names": (lambda: page_of(written(*map(shifted, SENTENCES))), "gibberish"),
    "marks": (lambda: page_of(written("#$%& !!// ==>> ::;; <<>> ??!! --__ ~~")), "gibberish"),
    "mostly off the page": (lambda: page_of(TEXT + FAR), "outside"),
    "a slanted stamp": (lambda: page_of(TEXT + SLANTED), "slanted"),
    "letters far apart": (lambda: page_of(LETTERS), "scattered"),
    "a text on another": (lambda: page_of(TEXT + SAME_PLACE), "overlapping"),
    "a blackened word": (lambda: page_of(BLACKENED), "hidden"),
    "white on white": (lambda: page_of(TEXT + b"1 g " + written("and white words", at="1 0 0 1 72 500")), "hidden"),
    "a scan with text that is never drawn": (lambda: scan_over(b"3 Tr " + TEXT), "hidden"),
    "a scan that covers a text": (lambda: scan_over(TEXT), "hidden"),
    "letters that are curves": (lambda: page_of(TEXT + CURVES), "more_drawn"),
    "a form that was filled in": (
        lambda: with_field("Filled in by hand, for which there is", "no text on the page"),
        "more_drawn",
    ),
    "one figure in a field of a full page": (lambda: with_field("7", on=DENSE), "more_drawn"),
    "a short stamp on a full page": (lambda: page_of(DENSE + STAMP), "more_drawn"),
    "a book on one page": (lambda: page_of(written(*["word " * 100] * 60, size=1)), "too_long"),
    "a map": (lambda: page_of(TEXT + b"9 9 1 1 re f " * 25_000), "too_complex"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_text_that_may_not_be_the_page_is_left_to_ocr(rasteriser: Rasteriser, tmp_path: Path, name: str) -> None:
    make, why = DOUBTFUL[name]
    assert doubt(rasteriser, tmp_path, make()) == why


SOUND: dict[str, bytes] = {
    "a table": TEXT + b"0 0 1 RG " + b"".join(b"%d 100 m %d 735 l S " % (x, x) for x in range(60, 560, 40)),
    "on colour": b"0.8 0.9 1 rg 50 640 500 100 re f 0 g " + TEXT,
    "white on a bar": b"0 0 0.5 rg 60 640 500 100 re f 1 g " + TEXT,
    "a table of contents": TEXT + written(*["Findings " + 60 * "." + " 7"] * 9, at="1 0 0 1 72 600"),
    "bullets that are drawn": TEXT + b"".join(b"40 %d 3 3 re f " % y for y in (700, 690, 680)),
    "printer's marks": TEXT + written("cut", at="1 0 0 1 -90 300"),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_text_does_not_keep_text_from_being_taken(rasteriser: Rasteriser, tmp_path: Path, name: str) -> None:
    path = tmp_path / "document.pdf"
    path.write_bytes(page_of(SOUND[name]))
    found = OwnText.of(rasteriser, path, 1)
    assert found.doubt == ""
    assert found.as_page(1, 1.0).text.split("\n")[:4] == list(SENTENCES)


def test_links_and_marks_with_a_pen_do_not_keep_text_from_being_taken(rasteriser: Rasteriser, tmp_path: Path) -> None:
    path = tmp_path / "document.pdf"
    with pikepdf.open(io.BytesIO(page_of(TEXT))) as document:
        look = document.make_stream(b"1 1 0 rg 0 0 200 14 re f")
        look.Subtype, look.BBox = pikepdf.Name.Form, pikepdf.Array([0, 0, 200, 14])
        pen = pikepdf.Dictionary(Subtype=pikepdf.Name.Highlight, F=4, AP=pikepdf.Dictionary(N=look))
        pen.Rect = pen.QuadPoints = pikepdf.Array([72, 300, 272, 314])
        link = pikepdf.Dictionary(Subtype=pikepdf.Name.Link, Rect=[72, 690, 200, 704], Border=[0, 0, 1])
        document.pages[0].Annots = pikepdf.Array([document.make_indirect(one) for one in (pen, link)])
        document.save(path)
    assert OwnText.of(rasteriser, path, 1).doubt == ""


@pytest.mark.parametrize(("named", "wanted"), [("ﬁ", "fi"), ("\U0001d465", "\U0001d465"), ("e\u0301", "é")])
def test_a_glyph_is_the_characters_that_its_font_names(
    rasteriser: Rasteriser, tmp_path: Path, named: str, wanted: str
) -> None:
    path = tmp_path / "document.pdf"
    path.write_bytes(pdf_that_calls_letters(named))
    [line] = rasteriser.text(path, 1).lines
    assert line.text == wanted * 34


class Engine:
    """Notes which pages are announced, and reads the same in each."""

    def __init__(self, text: str) -> None:
        self.announced = 0
        self._text = text

    @contextmanager
    def passage(self, options: ReadOptions, deadline: float, cancelled: Callable[[], bool]) -> Iterator[Any]:
        self.announced += 1
        yield SimpleNamespace(
            read=lambda page, raster, took_ms: page_read(page).model_copy(update={"text": self._text}),
            shares={},
        )


def read_by(engine: Engine | PpOcr, rasteriser: Rasteriser, path: Path, page: int, how: str) -> PageResult:
    media_type = sniff(path.read_bytes()[:SNIFF_BYTES])
    options = ReadOptions.model_validate({"pdf_text": how})
    job = Job(id=new_job_id(), blob="b", media_type=media_type, size_bytes=1, options=options)
    lease = Lease(cast(Any, SimpleNamespace(job=job)), lost=threading.Event())
    uncached = SimpleNamespace(read=lambda job, page, raster, passage, ms, **_: Read(passage.read(page, raster, ms)))
    parts = {"engine": engine, "rasteriser": rasteriser, "rasters": rasteriser, "page_cache": uncached}
    return tasks._read(
        cast(Station, SimpleNamespace(**parts)), lease, path, page, time.monotonic() + 60, trace=[]
    ).result


def test_a_page_with_sound_text_is_never_announced_to_the_engine(rasteriser: Rasteriser) -> None:
    engine = Engine("read")

    pages = [read_by(engine, rasteriser, REPORT, page, "auto") for page in range(1, 6)]

    assert [(page.source, page.text_doubt) for page in pages] == [("pdf", "")] * 3 + [("ocr", "few_characters")] * 2
    assert [page.engine for page in pages] == ["pdf"] * 3 + ["pp-ocr"] * 2
    assert engine.announced == 2


def test_pages_are_counted_by_source_and_only_read_ones_have_stages(rasteriser: Rasteriser) -> None:
    def counted() -> list[float]:
        named = [("page_sources_total", {"source": source}) for source in ("pdf", "ocr")]
        named += [("stage_seconds_count", {"stage": stage}) for stage in ("text", "detect")]
        return [REGISTRY.get_sample_value(f"ocrpool_worker_{name}", labels) or 0 for name, labels in named]

    before = counted()
    for page in (1, 2, 4):
        tasks._count(read_by(Engine("read"), rasteriser, REPORT, page, "auto"))
    assert np.subtract(counted(), before).tolist() == [2, 1, 2, 1]


def test_verified_text_is_compared_and_the_reading_stays_the_result(rasteriser: Rasteriser, tmp_path: Path) -> None:
    right, wrong = Engine(truth(REPORT)[0]), Engine("Nothing of the sort.")
    agreeing = read_by(right, rasteriser, REPORT, 1, "verify")
    lying = read_by(wrong, rasteriser, REPORT, 1, "verify")
    scan = read_by(right, rasteriser, REPORT, 4, "verify")

    assert agreeing.text_agreement == 1.0
    assert lying.text_agreement is not None
    assert lying.text_agreement < 0.1
    assert (lying.source, lying.text) == ("ocr", "Nothing of the sort.")
    assert (scan.text_agreement, scan.text_doubt) == (None, "few_characters")

    # And the layer of a scan is compared although no reader sees it
    path = tmp_path / "scan.pdf"
    path.write_bytes(scan_over(b"3 Tr " + TEXT))
    layer = read_by(Engine("\n".join(SENTENCES)), rasteriser, path, 1, "verify")
    assert (layer.text_agreement, layer.text_doubt) == (1.0, "hidden")


@pytest.mark.parametrize("how", ["auto", "verify"])
def test_images_are_read_as_always(rasteriser: Rasteriser, tmp_path: Path, how: str) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(png("image"))
    page = read_by(engine := Engine("read"), rasteriser, path, 1, how)
    assert (page.text, page.source, page.text_doubt, page.text_agreement) == ("read", "ocr", "", None)
    assert engine.announced == 1


def common(one: str, other: str) -> int:
    """The length of the longest common subsequence, by the textbook."""
    lengths = [0] * (len(other) + 1)
    for a in one:
        before = lengths.copy()
        for n, b in enumerate(other, 1):
            lengths[n] = before[n - 1] + 1 if a == b else max(before[n], lengths[n - 1])
    return lengths[-1]


@given(st.text("abcé", max_size=90), st.text("abcé", max_size=90))
def test_similarity_is_what_two_texts_share_in_their_order(one: str, other: str) -> None:
    wanted = 2 * common(one, other) / (len(one) + len(other)) if one or other else 1.0
    assert similarity(one, other) == pytest.approx(wanted)


def test_blanks_and_forms_of_a_character_make_no_difference() -> None:
    assert similarity("The of\ufb01ce,\n12 m²", "Theoffice, 12m2") == 1.0
