"""A PDF page's own text: its lines, in pixels of the upright page, and what speaks against taking them for the page's.

Text is believed where the page bears it out. It is drawn with its text and without: each piece of the text must make a
difference, and little may be left without it. That covers what no list of a PDF's objects would: scans with a layer of
text, letters drawn as curves, fields, notes, blackened words, white on white. The limit is a font that draws one letter
under another's name: only reading the page finds it out.
"""

from __future__ import annotations

import ctypes
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

#: `float64[N, 4]`: left, top, right, bottom, in pixels of the upright page.
Boxes = NDArray[np.float64]
#: `uint8[height, width]`
Gray = NDArray[np.uint8]
#: The glyphs of a line, in its order.
Run = list[int]

#: More than this of one page is left to OCR before it is looked at: it bounds the time, and the answer's size.
MOST_CHARACTERS, MOST_LINES, MOST_OBJECTS = 20_000, 1_000, 20_000
#: Fewer are a page number, or a stamp on something else; reading such a page costs little.
LEAST_CHARACTERS = 20
#: Glyphs without a character (U+FFFD, private use, control codes): one in a hundred is a bullet, more are a font whose
#: names are lost.
UNMAPPED_PART = 0.01
#: Letters and digits are at least this part of a text, and vowels this part of its Latin letters (38% in English). Not
#: where a font calls its glyphs by wrong names: "Hello" shifted to "+HOOR".
LETTERS_PART, VOWELS_PART, VOWELS = 0.5, 0.25, frozenset("aeiouyAEIOUY")
#: Printers' marks lie outside a page, and are left out. Where more does, the page is cut out of something else.
OUTSIDE_PART = 0.1
#: Characters of lines that lie on others for more than half: a text printed twice, or two that cover each other.
OVERLAPPING_PART, OVERLAP = 0.02, 0.5
#: Half of the lines are no longer than this: letters placed one by one, in an order of their own, or in columns.
SCATTERED_CHARACTERS = 2
#: What is drawn beside the text may have this part of the text's edges: rules, dots, a mark.
BESIDE_PART = 0.01
#: And nowhere so many edges close together: three or four letters have them, of text that is not the page's.
WORD_EDGES, WORD_HEIGHT, WORD_WIDTH = 90, 24, 72
#: What fields and notes draw may have so few: a letter has more.
NOTE_EDGES = 8
#: Two neighbouring pixels are an edge if they differ by this; a piece of text that is seen changes a pixel by less.
EDGE, SEEN = 48, 24
#: Edges that run straight down for so many pixels are a rule's, not a letter's.
RULE_PIXELS = 36
#: So many characters are looked for together: fewer are too small, and more would hide a covered one among them.
PIECE_CHARACTERS = 3
#: The resolution of those drawings, 108 dpi, or less where they would have more pixels.
LOOK_SCALE, LOOK_PIXELS = 1.5, 4_000_000

#: A gap of more than this, in heights of the line, parts two lines, as the cells of a table.
GAP = 1.0
#: Text is upright, or turned by a quarter, up to this many degrees.
SLANT_DEGREES = 1.0
#: What pdfium says for a hyphen at the end of a line.
HYPHEN = 0x02
HIGH_HALVES, LOW_HALVES = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
UNMAPPED, SLANTED = "\ufffd", -1


@dataclass(frozen=True)
class PageText:
    """`angle`: how the page was turned to stand upright. `doubt`: why its text may not be all of it, or nothing."""

    width: int
    height: int
    angle: int
    #: Each line's corners, clockwise from the text's top left, x before y; and its text.
    lines: list[tuple[list[float], str]]
    doubt: str


@dataclass(frozen=True)
class _Glyphs:
    """What leaves ink. `loose` boxes have the height of the font, `tight` ones that of the glyph."""

    texts: list[str]
    loose: Boxes
    tight: Boxes
    #: Quarter turns clockwise from upright, or `SLANTED`.
    turns: list[int]
    #: Those with a space before them, and those that begin a line for pdfium.
    spaced: set[int]
    first: set[int]

    def text(self, run: Run) -> str:
        parts = (" " + self.texts[n] if n in self.spaced and n != run[0] else self.texts[n] for n in run)
        return unicodedata.normalize("NFC", "".join(parts))


def read_text(page: Any, width: int, height: int) -> PageText:
    """The text of a page of pypdfium2 that would be drawn with so many pixels. Its drawings lack the text after it."""
    angle = int(page.get_rotation())
    text_page = page.get_textpage()
    try:
        if text_page.count_chars() > MOST_CHARACTERS:
            return PageText(width, height, angle, [], "too_long")
        glyphs = _glyphs(text_page, page.get_bbox(), angle // 90, width, height)
    finally:
        text_page.close()
    on_page = _boxes_on_page(glyphs.loose, width, height)
    runs = list(_runs(glyphs, on_page))
    if len(runs) > MOST_LINES:
        return PageText(width, height, angle, [], "too_long")
    boxes = _around(glyphs.loose, runs)
    doubt = (
        _doubt_of_characters(glyphs, on_page)
        or _doubt_of_places(glyphs, runs, boxes)
        or _doubt_of_drawing(page, glyphs, runs, width)
    )
    quads = [
        _quad(box, glyphs.turns[run[0]]) for box, run in zip(boxes.clip(0, (width, height) * 2), runs, strict=True)
    ]
    return PageText(
        width, height, angle, [(quad, glyphs.text(run)) for quad, run in zip(quads, runs, strict=True)], doubt
    )


def _glyphs(text_page: Any, page: tuple[float, float, float, float], quarters: int, width: int, height: int) -> _Glyphs:
    texts: list[str] = []
    loose: list[tuple[float, ...]] = []
    tight: list[tuple[float, ...]] = []
    turns: list[int] = []
    spaced: set[int] = set()
    first: set[int] = set()
    rect, left, right, bottom, top = pdfium.FS_RECTF(), *(ctypes.c_double() for _ in range(4))
    before = code = 0
    for index in range(text_page.count_chars()):
        before, code = code, pdfium.FPDFText_GetUnicode(text_page, index)
        if code in LOW_HALVES and before in HIGH_HALVES:
            # Of a pair in UTF-16, the first half has become a glyph already.
            whole = chr(0x10000 + (before - HIGH_HALVES.start << 10) + code - LOW_HALVES.start)
            texts[-1] = whole if whole.isprintable() else UNMAPPED
        elif code in (0x0A, 0x0D):
            first.add(len(texts))
        elif chr(code).isspace():
            spaced.add(len(texts))
        elif text := _character(text_page, index, code):
            texts.append(text)
            pdfium.FPDFText_GetLooseCharBox(text_page, index, rect)
            loose.append((rect.left, rect.bottom, rect.right, rect.top))
            pdfium.FPDFText_GetCharBox(text_page, index, left, right, bottom, top)
            tight.append((left.value, bottom.value, right.value, top.value))
            turns.append(_turn(pdfium.FPDFText_GetCharAngle(text_page, index), quarters))
    return _Glyphs(
        texts,
        _upright(loose, page, quarters, width, height),
        _upright(tight, page, quarters, width, height),
        turns,
        spaced,
        first,
    )


def _character(text_page: Any, index: int, code: int) -> str:
    """The character, U+FFFD for a glyph that has none, or nothing for one that leaves no ink."""
    if code == HYPHEN and pdfium.FPDFText_IsHyphen(text_page, index) == 1:
        return "-"
    character = chr(code)
    if unicodedata.category(character) == "Cf":
        return ""
    if not character.isprintable() or pdfium.FPDFText_HasUnicodeMapError(text_page, index) == 1:
        return UNMAPPED
    # A ligature is one glyph for several letters.
    return unicodedata.normalize("NFKC", character) if "\ufb00" <= character <= "\ufb06" else character


def _turn(radians: float, quarters: int) -> int:
    """Of a glyph that is turned clockwise on a page, which is turned by so many quarters to stand upright."""
    turned, off = divmod(math.degrees(radians) + SLANT_DEGREES, 90)
    return int(quarters + turned) % 4 if off <= 2 * SLANT_DEGREES else SLANTED


def _upright(
    rects: list[tuple[float, ...]], page: tuple[float, float, float, float], quarters: int, width: int, height: int
) -> Boxes:
    """Rectangles on the page (left, bottom, right, top, in points) as boxes on its drawing."""
    left, bottom, right, top = page
    x0, y0, x1, y1 = (np.array(rects, np.float64).reshape(-1, 4) - (left, bottom) * 2).T
    a, b = x0 / (right - left), x1 / (right - left)
    c, d = y0 / (top - bottom), y1 / (top - bottom)
    sides = [(a, 1 - d, b, 1 - c), (c, a, d, b), (1 - b, c, 1 - a, d), (1 - d, 1 - b, 1 - c, 1 - a)][quarters]
    return np.stack(sides, axis=1) * ((width, height) * 2)


def _boxes_on_page(boxes: Boxes, width: int, height: int) -> NDArray[np.bool_]:
    left, top, right, bottom = boxes.T
    inside: NDArray[np.bool_] = (right > 0) & (bottom > 0) & (left < width) & (top < height)
    return inside


def _runs(glyphs: _Glyphs, on_page: NDArray[np.bool_]) -> Iterator[Run]:
    """The lines, in the order of the file."""
    boxes = glyphs.loose.tolist()
    run: Run = []
    for n, inside in enumerate(on_page.tolist()):
        if run and (n in glyphs.first or not inside or not _follows(glyphs, boxes, run[-1], n)):
            yield run
            run = []
        if inside:
            run.append(n)
    if run:
        yield run


def _follows(glyphs: _Glyphs, boxes: list[list[float]], before: int, n: int) -> bool:
    """Whether a glyph stands beside the one before, on either side: some scripts run to the left."""
    turn = glyphs.turns[n]
    if turn != glyphs.turns[before]:
        return False
    across, down = (1, 0) if turn in (1, 3) else (0, 1)
    a, b = boxes[before], boxes[n]
    gap = max(b[across] - a[across + 2], a[across] - b[across + 2])
    apart = max(b[down] - a[down + 2], a[down] - b[down + 2])
    return apart <= 0 and gap <= GAP * max(a[down + 2] - a[down], b[down + 2] - b[down])


def _around(boxes: Boxes, runs: list[Run]) -> Boxes:
    """The box around each run's."""
    if not runs:
        return np.zeros((0, 4))
    members = boxes[np.concatenate(runs)]
    starts = np.cumsum([0, *map(len, runs[:-1])])
    around = np.minimum.reduceat(members[:, :2], starts), np.maximum.reduceat(members[:, 2:], starts)
    return np.concatenate(around, axis=1)


def _quad(box: NDArray[np.float64], turn: int) -> list[float]:
    left, top, right, bottom = box.round(1).tolist()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    first = max(turn, 0)
    return [number for corner in corners[first:] + corners[:first] for number in corner]


def _doubt_of_characters(glyphs: _Glyphs, on_page: NDArray[np.bool_]) -> str:
    count = len(glyphs.texts)
    if on_page.sum() < LEAST_CHARACTERS:
        return "few_characters"
    if glyphs.texts.count(UNMAPPED) > UNMAPPED_PART * count:
        return "unmapped"
    if _gibberish("".join(glyphs.texts)):
        return "gibberish"
    if count - on_page.sum() > OUTSIDE_PART * count:
        return "outside"
    return ""


def _gibberish(text: str) -> bool:
    text = text.replace(".", "")  # those that lead to a page's number are no sign of anything
    if sum(map(str.isalnum, text)) < LETTERS_PART * len(text):
        return True
    latin = [letter for letter in unicodedata.normalize("NFD", text) if letter.isascii() and letter.isalpha()]
    mostly = len(latin) > len(text) / 2
    return mostly and sum(letter in VOWELS for letter in latin) < VOWELS_PART * len(latin)


def _doubt_of_places(glyphs: _Glyphs, runs: list[Run], boxes: Boxes) -> str:
    if any(glyphs.turns[run[0]] == SLANTED for run in runs):
        return "slanted"
    lengths = np.array([len(run) for run in runs])
    if np.median(lengths) <= SCATTERED_CHARACTERS:
        return "scattered"
    if lengths[_overlapping(boxes)].sum() > OVERLAPPING_PART * lengths.sum():
        return "overlapping"
    return ""


def _overlapping(boxes: Boxes) -> NDArray[np.bool_]:
    """Which boxes share more than a part of the smaller one with another."""
    left, top, right, bottom = boxes.T
    area = np.maximum((right - left) * (bottom - top), 1e-3)
    found = np.zeros(len(boxes), bool)
    for n in range(len(boxes)):
        across = np.minimum(right, right[n]) - np.maximum(left, left[n])
        down = np.minimum(bottom, bottom[n]) - np.maximum(top, top[n])
        shared = np.maximum(across, 0) * np.maximum(down, 0) > OVERLAP * np.minimum(area, area[n])
        shared[n] = False
        found[n] = shared.any()
    return found


def _doubt_of_drawing(page: Any, glyphs: _Glyphs, runs: list[Run], width: int) -> str:
    objects = list(islice(page.get_objects(max_depth=64), MOST_OBJECTS + 1))
    if len(objects) > MOST_OBJECTS:
        return "too_complex"
    whole = _drawing(page)
    noted = pdfium.FPDFPage_GetAnnotCount(page) > 0
    for part in objects:
        if part.type == pdfium.FPDF_PAGEOBJ_TEXT:
            pdfium.FPDFPageObj_SetIsActive(part, False)
    rest = _drawing(page)
    if not _seen(whole, rest, _pieces(glyphs, runs) * (whole.shape[1] / width)).all():
        return "hidden"
    beside = _edges(rest)
    text_edges = np.count_nonzero(_edges(whole)) - np.count_nonzero(beside)
    letters = _without_rules(beside)
    if np.count_nonzero(letters) > BESIDE_PART * text_edges or _most_together(letters) > WORD_EDGES:
        return "more_drawn"
    if noted and np.count_nonzero(letters & ~_edges(_drawing(page, notes=False))) > NOTE_EDGES:
        return "more_drawn"
    return ""


def _drawing(page: Any, *, notes: bool = True) -> Gray:
    width, height = page.get_size()
    scale = min(LOOK_SCALE, math.sqrt(LOOK_PIXELS / (width * height)))
    bitmap = page.render(scale=scale, grayscale=True, draw_annots=notes, may_draw_forms=notes)
    try:
        pixels: Gray = bitmap.to_numpy().reshape(bitmap.height, bitmap.width).copy()
        return pixels
    finally:
        bitmap.close()


def _pieces(glyphs: _Glyphs, runs: list[Run]) -> Boxes:
    """The tight boxes of a few neighbours each. Dots and dashes alone are too small to tell, and left out."""
    pieces: list[Run] = []
    for run in runs:
        for at, n in enumerate(run):
            if not at or n in glyphs.spaced or len(pieces[-1]) == PIECE_CHARACTERS:
                pieces.append([])
            pieces[-1].append(n)
    return _around(glyphs.tight, [piece for piece in pieces if any(glyphs.texts[n].isalnum() for n in piece)])


def _seen(whole: Gray, rest: Gray, boxes: Boxes) -> NDArray[np.bool_]:
    """In which boxes of the drawing something is seen that is not in the rest of it."""
    changed = np.maximum(whole, rest) - np.minimum(whole, rest) >= SEEN
    sums = _sums(changed)
    left, top = np.floor(boxes[:, :2]).astype(int).clip(0, changed.shape[::-1]).T
    right, bottom = np.ceil(boxes[:, 2:]).astype(int).clip(0, changed.shape[::-1]).T
    seen: NDArray[np.bool_] = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0
    return seen


def _sums(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many are set above and left of each point."""
    sums = np.zeros((flags.shape[0] + 1, flags.shape[1] + 1), np.int32)
    sums[1:, 1:] = flags.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    return sums


def _most_together(edges: NDArray[np.bool_]) -> int:
    """The most edges in any place of the size of a short word."""
    height, width = min(WORD_HEIGHT, edges.shape[0]), min(WORD_WIDTH, edges.shape[1])
    sums = _sums(edges)
    rows = sums[height:] - sums[:-height]
    return int((rows[:, width:] - rows[:, :-width]).max())


def _edges(drawing: Gray) -> NDArray[np.bool_]:
    """Where a pixel differs from its right neighbour: letters have many such, areas and level rules hardly any."""
    left, right = drawing[:, :-1], drawing[:, 1:]
    edges: NDArray[np.bool_] = np.maximum(left, right) - np.minimum(left, right) > EDGE
    return edges


def _without_rules(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not edges.any() or len(edges) < RULE_PIXELS:
        return edges
    long = _windows(edges) == RULE_PIXELS
    # What lies in any long run: the runs that begin at most its length above.
    padding = np.zeros((RULE_PIXELS - 1, edges.shape[1]), bool)
    kept: NDArray[np.bool_] = edges & (_windows(np.concatenate([padding, long, padding])) == 0)
    return kept


def _windows(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many of `RULE_PIXELS` flags below one another are set, for each window."""
    sums = np.zeros((len(flags) + 1, flags.shape[1]), np.int32)
    np.cumsum(flags, axis=0, out=sums[1:])
    return sums[RULE_PIXELS:] - sums[:-RULE_PIXELS]
