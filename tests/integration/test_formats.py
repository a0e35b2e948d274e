"""The samples, read by the real models, in every format: as a user gets them from the command line and from Python."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image

from producer import Producer
from producer.errors import InvalidRequest
from producer.formats import Format
from producer.job import JobResult, PageResult
from tests.documents import SAMPLES, character_f1, png, samples, truth
from tests.integration.test_cli import ocrpool
from tests.producer.formats.test_formats import shown, squeezed


def read(result: JobResult) -> list[PageResult]:
    return [page for page in result.pages if isinstance(page, PageResult)]


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_the_samples_lose_no_line_in_any_format(pool: Producer, tmp_path: Path) -> None:
    jobs = {sample: pool.submit(sample) for sample in samples()}
    for sample, job in jobs.items():
        job.wait(120)
        pages = read(job.result())
        assert len(pages) == len(truth(sample))
        files = {one: job.save(tmp_path, one) for one in Format if one is not Format.OVERLAY}
        assert {path.parent for path in files.values()} == {tmp_path}
        assert files[Format.PDF].name == f"{sample.name}.searchable.pdf"
        wanted = [line.text for page in pages for line in page.lines]
        assert wanted

        served = json.loads(files[Format.PADDLEX].read_text(encoding="utf-8"))
        assert [text for one in served["ocrResults"] for text in one["prunedResult"]["rec_texts"]] == wanted
        spans = ET.parse(files[Format.HOCR]).iterfind(".//*[@class='ocr_line']")
        assert [squeezed("".join(span.itertext())) for span in spans] == [squeezed(text) for text in wanted]
        seen = shown(files[Format.MARKDOWN].read_text(encoding="utf-8"))
        assert seen == squeezed("".join(page.text for page in pages))
        searchable = pypdfium2.PdfDocument(files[Format.PDF])
        for page, text in zip(pages, truth(sample), strict=True):
            found = searchable[page.page - 1].get_textpage().get_text_range()
            assert not [line.text for line in page.lines if squeezed(line.text) not in squeezed(found)]
            assert character_f1(found, text) > 0.98

        pictures = job.save_to_img(tmp_path / "pictures")
        assert [size_of(path) for path in pictures] == [(page.width, page.height) for page in pages]


def test_read_writes_any_format_into_a_folder(pool: Producer, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pdf"
    wrong.write_bytes(b"%PDF-1.7\nnothing of a PDF follows")
    for format, name in (("overlay", "fax.tiff.page-2.overlay.png"), ("pdf", "fax.tiff.searchable.pdf")):
        ran = ocrpool(pool.settings, "read", SAMPLES / "fax.tiff", wrong, "-f", format, "-o", tmp_path / format)
        assert ran.returncode == 1, "one of them could not be read"
        assert f"wrote {tmp_path / format / name}" in ran.stderr
        assert not list((tmp_path / format).glob("wrong*"))


def test_what_is_no_text_is_not_printed_together(pool: Producer, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(png("one page"))
    several = ocrpool(pool.settings, "read", page, page, "--format", "pdf")
    overlay = ocrpool(pool.settings, "read", page, "--format", "overlay")
    for ran, wanted in ((several, "--format pdf"), (overlay, "--format overlay")):
        assert ran.returncode == 1
        assert wanted in ran.stderr
        assert "invalid_request" in ran.stderr
    markdown = ocrpool(pool.settings, "read", page, "--format", "markdown")
    assert markdown.stdout == "one page\n"


def test_an_overlay_is_of_one_page(pool: Producer, tmp_path: Path) -> None:
    job = pool.submit(png("one page"))
    job.wait(60)
    with pytest.raises(InvalidRequest, match="save_to_img"):
        job.save(tmp_path, Format.OVERLAY)
    assert job.save_to_markdown(tmp_path / "page.md").read_text(encoding="utf-8") == "one page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.md"]
