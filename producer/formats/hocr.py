"""hOCR 1.2 (kba.github.io/hocr-spec): pages, lines and words with their boxes, as HTML that is XML as well."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import escape
from importlib.metadata import version

from producer.formats.layout import Row, bounds, reading_quad, rows, words
from producer.job import Job, JobResult, Line, PageOutcome, PageResult, Quad

CAPABILITIES = "ocr_page ocr_line ocrx_word ocrp_wconf ocrp_poly"

#: What XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
REPLACEMENT = "\ufffd"


def render(result: JobResult, job: Job) -> str:
    """One `ocr_page` a page; one that failed has no box, and its error in `data-error`.

    A line has its box, its quad as `poly` and its confidence; its words share its quad by about how wide they are.
    """
    pages = "\n".join("\n".join(_page(page, result.name)) for page in result.pages)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<title>{_text(result.name)}</title>
<meta name="ocr-system" content="ocrpool {version("ocrpool")}"/>
<meta name="ocr-capabilities" content="{CAPABILITIES}"/>
<meta name="ocr-number-of-pages" content="{len(result.pages)}"/>
</head>
<body>
{pages}
</body>
</html>"""


def _page(page: PageOutcome, name: str) -> Iterator[str]:
    # A quotation mark would end the name, and there is no way to write one.
    image = f'image "{name.replace(chr(34), chr(39))}"; ' if name else ""
    place = f"ppageno {page.page - 1}"
    if not isinstance(page, PageResult):
        error = _text(f"{page.error.code}: {page.error.message}")
        yield f'<div class="ocr_page" id="page_{page.page}" title="{_text(image)}{place}" data-error="{error}"></div>'
        return
    title = f"{image}bbox 0 0 {page.width} {page.height}; {place}"
    yield f'<div class="ocr_page" id="page_{page.page}" title="{_text(title)}">'
    number = 0
    for row in rows(page):
        for line in row.lines:
            number += 1
            yield _line(line, f"{page.page}_{number}")
        if not row.lines:
            number += 1
            yield _line_of_no_place(row, page, f"{page.page}_{number}")
    yield "</div>"


def _line(line: Line, number: str) -> str:
    quad = reading_quad(line)
    confidence = f"x_wconf {round(100 * line.score)}"
    corners = " ".join(str(round(value)) for point in quad for value in point)
    angle = _angle(quad)
    turned = f"; textangle {angle:g}" if angle else ""
    spans = " ".join(
        f'<span class="ocrx_word" id="word_{number}_{n}" title="bbox {_box(word.quad)}; {confidence}">'
        f"{_text(word.text)}</span>"
        for n, word in enumerate(words(line), 1)
    )
    title = f"bbox {_box(quad)}; poly {corners}; {confidence}{turned}"
    return f'<span class="ocr_line" id="line_{number}" title="{title}">{spans}</span>'


def _line_of_no_place(row: Row, page: PageResult, number: str) -> str:
    box = f"bbox 0 0 {page.width} {page.height}"
    return f'<span class="ocr_line" id="line_{number}" title="{box}">{_text(row.text)}</span>'


def _angle(quad: Quad) -> float:
    """By how many degrees the text is turned counter-clockwise; nothing below half a degree."""
    (x0, y0), (x1, y1) = quad[0], quad[1]
    angle = round(math.degrees(math.atan2(y0 - y1, x1 - x0)), 1)
    return angle if abs(angle) >= 0.5 else 0


def _box(quad: Quad) -> str:
    left, top, right, bottom = bounds([quad])
    return f"{max(left, 0)} {max(top, 0)} {max(right, 0)} {max(bottom, 0)}"


def _text(text: str) -> str:
    return escape(_NOT_XML.sub(REPLACEMENT, text))
