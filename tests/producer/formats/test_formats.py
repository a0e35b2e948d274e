"""No format loses a line, and none lets a line's text become anything else."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import TypeAdapter

from producer.errors import CorruptDocument
from producer.formats import Format, hocr, markdown, paddlex, render
from producer.formats.layout import bounds, reading_quad, rows, words
from producer.job import JobResult, JobState, Line, MediaType, PageOutcome, PageResult, ReadOptions
from tests.producer.formats.results import DAMAGED, box, failed, job, line, lines, read, result, results, texts
from worker.recognition import upright

#: Results are large, and a busy machine takes its time over one.
no_deadline = settings(deadline=None, max_examples=50)

XHTML = "{http://www.w3.org/1999/xhtml}"


def lines_of(found: JobResult) -> list[Line]:
    return [one for page in found.pages if isinstance(page, PageResult) for one in page.lines]


def squeezed(text: str) -> str:
    return "".join(text.split())


@no_deadline
@given(results)
def test_rows_hold_every_line_in_order(found: JobResult) -> None:
    for page in found.pages:
        if isinstance(page, PageResult):
            made = rows(page)
            assert [one for row in made for one in row.lines] == list(page.lines)
            assert [row.text for row in made] == (page.text.split("\n") if page.text else [])


@no_deadline
@given(lines)
def test_a_quad_begins_where_the_recogniser_began_to_read(one: Line) -> None:
    [quad], _ = upright(np.array([one.quad], np.float32), 1000)
    wanted = np.roll(quad, 2, axis=0) if one.angle == 180 else quad
    assert np.allclose(reading_quad(one), wanted, atol=0.01)


@no_deadline
@given(lines)
def test_words_share_their_line_without_overlap(one: Line) -> None:
    found = list(words(one))
    assert [word.text for word in found] == one.text.split()
    start = reading_quad(one)[0]
    edges = [math.dist(start, corner) for word in found for corner in word.quad[:2]]
    assert edges == pytest.approx(sorted(edges), abs=0.01)
    assert edges[-1] <= math.dist(start, reading_quad(one)[1]) + 0.01


@no_deadline
@given(results)
def test_json_lines_are_a_page_each(found: JobResult) -> None:
    page: TypeAdapter[PageOutcome] = TypeAdapter(PageOutcome)
    made = render(found, Format.JSONL, job(found))
    assert [page.validate_json(one) for one in made.split("\n")] == list(found.pages)


@no_deadline
@given(results)
def test_text_has_every_row(found: JobResult) -> None:
    made = render(found, Format.TEXT, job(found))
    for page in found.pages:
        assert isinstance(page, PageResult) is (page.kind == "page")
        if isinstance(page, PageResult):
            assert page.text in made


@no_deadline
@given(results)
def test_paddlex_has_every_line_by_its_field_names(found: JobResult) -> None:
    served = json.loads(render(found, Format.PADDLEX, job(found)))
    assert [len(served["ocrResults"]), served["dataInfo"]["numPages"]] == [len(found.pages)] * 2
    for page, one in zip(found.pages, served["ocrResults"], strict=True):
        pruned = one["prunedResult"]
        if not isinstance(page, PageResult):
            assert pruned == {"error": DAMAGED.model_dump()}
            continue
        assert pruned["rec_texts"] == [each.text for each in page.lines]
        assert pruned["rec_scores"] == [each.score for each in page.lines]
        assert pruned["rec_boxes"] == [list(bounds([each.quad])) for each in page.lines]
        kinds = ("rec_texts", "rec_polys", "dt_polys", "textline_orientation_angles")
        assert {len(pruned[kind]) for kind in kinds} == {len(page.lines)}


def test_paddlex_tells_of_orientation_as_a_class() -> None:
    page = read(1, [[line("up", box(0, 0, 50, 10))], [line("down", box(0, 20, 50, 10), angle=180)]])
    asked = paddlex.pruned_result(page, ReadOptions(orientation=True, min_score=0.25))
    assert asked["textline_orientation_angles"] == [0, 1]
    assert (asked["model_settings"]["use_textline_orientation"], asked["text_rec_score_thresh"]) == (True, 0.25)
    assert paddlex.pruned_result(page, ReadOptions())["textline_orientation_angles"] == [-1, -1]


def test_paddlex_tells_what_the_document_was() -> None:
    found = result(read(1, []))
    kinds = {kind: paddlex.served_result(found, job(found, kind))["dataInfo"] for kind in MediaType}
    assert kinds[MediaType.PNG] == {"width": 800, "height": 1000, "type": "image"}
    assert kinds[MediaType.PDF] == {"numPages": 1, "pages": [{"width": 800, "height": 1000}], "type": "pdf"}
    assert paddlex.saved_result(read(1, []), job(found, MediaType.PDF))["page_index"] == 0
    assert paddlex.saved_result(read(1, []), job(found, MediaType.PNG))["page_index"] is None


@no_deadline
@given(results, st.text(max_size=20))
def test_hocr_is_xml_with_every_line_word_and_box(found: JobResult, name: str) -> None:
    found = found.model_copy(update={"name": name})
    root = ET.fromstring(hocr.render(found, job(found)))
    divs = [one for one in root.iter(f"{XHTML}div") if one.get("class") == "ocr_page"]
    assert [properties(one)["ppageno"] for one in divs] == [str(page.page - 1) for page in found.pages]
    assert len({one.get("id") for one in root.iter() if one.get("id")}) == sum(
        bool(one.get("id")) for one in root.iter()
    )
    for page, div in zip(found.pages, divs, strict=True):
        if not isinstance(page, PageResult):
            assert div.get("data-error") == f"{DAMAGED.code}: {DAMAGED.message}"
            assert "bbox" not in properties(div)
            continue
        assert properties(div)["bbox"] == f"0 0 {page.width} {page.height}"
        spans = [one for one in div.iter(f"{XHTML}span") if one.get("class") == "ocr_line"]
        for each, span in zip(page.lines, spans, strict=True):
            inside = list(span)
            assert [one.text for one in inside] == [as_xml(text) for text in each.text.split()]
            left, top, right, bottom = map(int, properties(span)["bbox"].split())
            assert (left, top, right, bottom) == bounds([each.quad])
            for word in inside:
                x0, y0, x1, y1 = map(int, properties(word)["bbox"].split())
                assert left <= x0 <= x1 <= right
                assert top <= y0 <= y1 <= bottom
                assert properties(word)["x_wconf"] == str(round(100 * each.score))


def properties(element: ET.Element) -> dict[str, str]:
    """The properties in an element's title, by hOCR's grammar: names and values, parted by semicolons."""
    title = element.get("title") or ""
    one = r'(\w+)((?:\s+(?:"[^"]*"|[^\s";]+))+)'
    assert re.fullmatch(rf"(?:{one}; )*{one}", title), title
    return {name: value.strip() for name, value in re.findall(one, title)}


def as_xml(text: str) -> str:
    return "".join(char if char not in "\ufffe\uffff" else "\ufffd" for char in text)


def test_hocr_says_how_text_is_turned() -> None:
    upwards = ((0.0, 0.0), (20.0, 0.0), (20.0, 200.0), (0.0, 200.0))
    found = result(
        read(1, [[line("down", upwards)], [line("up", upwards, angle=180)], [line("flat", box(0, 300, 99, 20))]])
    )
    root = ET.fromstring(hocr.render(found, job(found)))
    titles = [properties(one) for one in root.iter(f"{XHTML}span") if one.get("class") == "ocr_line"]
    assert [title.get("textangle") for title in titles] == ["-90", "90", None]


def shown(made: str) -> str:
    """The text that a Markdown reader sees; fails if it sees anything but paragraphs, headings, rules and comments."""
    text = ""

    def walk(tokens: list[Token]) -> None:
        nonlocal text
        for token in tokens:
            assert token.type.removesuffix("_open").removesuffix("_close") in (
                "paragraph", "heading", "inline", "text", "softbreak", "hardbreak", "hr", "html_block", "em",
                "text_special",
            ), (token.type, made)  # fmt: skip
            if token.type == "html_block":
                assert re.fullmatch(r"<!-- page \d+ -->\n?", token.content)
            if token.type in ("text", "text_special"):
                text += token.content
            walk(token.children or [])

    walk(MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(made))
    return squeezed(text)


@no_deadline
@given(results)
def test_markdown_shows_every_row_as_it_is(found: JobResult) -> None:
    wanted = ""
    for page in found.pages:
        if isinstance(page, PageResult):
            wanted += page.text
        else:
            wanted += f"Page {page.page} could not be read: {DAMAGED.message} ({DAMAGED.code})"
    assert shown(markdown.render(found, job(found))) == squeezed(wanted)


@no_deadline
@given(texts)
def test_a_line_alone_is_shown_as_it_is(text: str) -> None:
    assert shown(markdown.escaped(text)) == squeezed(text)


def test_a_heading_keeps_signs_that_would_close_it() -> None:
    lines = [
        [line("Rooms ##", box(50, 40, 300, 60))],
        *([line(f"row {n}", box(50, 140 + 30 * n, 600, 24))] for n in range(3)),
    ]
    made = markdown.render(result(read(1, lines)), job(result()))
    assert made.splitlines()[0] == r"# Rooms \##"
    assert shown(made).startswith("Rooms##")


def test_markdown_tells_headings_paragraphs_and_rows_that_run_on() -> None:
    found = result(
        read(
            1,
            [
                [line("Year One", box(50, 40, 300, 60))],
                [line("Two turbines supplied power to the whole", box(50, 140, 600, 24))],
                [line("island for a year.", box(50, 170, 250, 24))],
                [line("Item", box(50, 260, 60, 24)), line("Price", box(500, 260, 70, 24))],
                [line("Cable", box(50, 290, 70, 24)), line("12.50", box(500, 290, 70, 24))],
            ],
        ),
        failed(2),
    )
    assert markdown.render(found, job(found)) == (
        "# Year One\n\n"
        "Two turbines supplied power to the whole\nisland for a year.\n\n"
        "Item Price\\\nCable 12.50\n\n"
        "---\n\n<!-- page 2 -->\n\n"
        "*Page 2 could not be read: The page is \\<damaged\\> \\& \\*cut\\* short. (corrupt\\_document)*"
    )


@pytest.mark.parametrize("format", [one for one in Format if not one.needs_document and one is not Format.JSON])
def test_a_job_without_any_page_is_its_error_and_no_empty_document(format: Format) -> None:
    nothing = result(failed(1)).model_copy(update={"state": JobState.FAILED, "error": DAMAGED})
    with pytest.raises(CorruptDocument):
        render(nothing, format, job(nothing))
    assert JobResult.model_validate_json(render(nothing, Format.JSON, job(nothing))) == nothing


def test_a_page_whose_text_came_without_lines_keeps_it() -> None:
    page = read(1, []).model_copy(update={"text": "one\ntwo"})
    found = result(page)
    assert markdown.render(found, job(found)) == "one\n\ntwo"
    assert Counter(re.findall("one|two", hocr.render(found, job(found)))) == {"one": 1, "two": 1}
