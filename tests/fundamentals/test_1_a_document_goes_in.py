"""Chapter 1: a document goes in, its text comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import JobState, PageResult, Producer
from tests.documents import SAMPLES, character_f1, samples, truth


def test_hand_in_a_file_and_read_its_text(pool: Producer) -> None:
    job = pool.submit(SAMPLES / "receipt.jpg")

    status = job.wait(timeout_s=60)

    assert status.state is JobState.SUCCEEDED
    assert "BLUEPINE COFFEE HOUSE" in job.result().text


@pytest.mark.parametrize("sample", samples(), ids=lambda path: path.name)
def test_every_sample_is_read_page_by_page(pool: Producer, sample: Path) -> None:
    job = pool.submit(sample)
    job.wait(timeout_s=120)

    pages = [page for page in job.result().pages if isinstance(page, PageResult)]

    expected = truth(sample)
    assert len(pages) == len(expected)
    for page, text in zip(pages, expected, strict=True):
        assert character_f1(page.text, text) > 0.98, f"page {page.page} reads {page.text!r}"


def test_a_result_says_where_each_line_stands_and_who_read_it(pool: Producer) -> None:
    job = pool.submit(SAMPLES / "invoice.png")
    job.wait(timeout_s=60)

    (page,) = job.result().pages

    assert isinstance(page, PageResult)
    assert page.engine == "pp-ocr"
    assert page.model.startswith("PP-OCRv6_small ")
    assert page.timings.detect_ms > 0
    total = next(line for line in page.lines if line.text == "£723.06")
    left, top = total.quad[0]
    assert left > page.width * 0.6
    assert page.height * 0.5 < top < page.height
    assert total.score > 0.9


def test_columns_are_read_one_after_the_other(pool: Producer) -> None:
    job = pool.submit(SAMPLES / "report.pdf")
    job.wait(timeout_s=120)

    findings = job.result().pages[1]

    assert isinstance(findings, PageResult)
    rows = findings.text.splitlines()
    assert rows.index("effect on efficiency.") < rows.index("Noise was measured at four places")
