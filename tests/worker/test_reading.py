from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from producer.job import Line
from worker.reading import arrange, as_quads, order

Box = tuple[float, float, float, float]


def quads_of(*boxes: Box) -> np.ndarray:
    """Quads of boxes given as left, top, width, height."""
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes]
    return np.array(corners, np.float32).reshape(-1, 4, 2)


def rotated(quads: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(quads @ turn, np.float32)


def column(left: float, width: float, top: float = 100, lines: int = 6) -> list[Box]:
    return [(left, top + 30 * n, width, 20) for n in range(lines)]


RECEIPT = quads_of(
    (120, 10, 200, 20),
    (10, 50, 150, 20),
    (400, 53, 60, 20),
    (10, 80, 220, 20),
    (250, 78, 40, 20),
    (400, 80, 60, 20),
    (10, 110, 100, 20),
    (400, 112, 60, 20),
)
RECEIPT_ROWS = [[0], [1, 2], [3, 4, 5], [6, 7]]


def test_an_item_and_its_price_are_one_row() -> None:
    assert order(RECEIPT) == RECEIPT_ROWS


def test_columns_of_prose_are_read_one_after_another_below_their_heading() -> None:
    # Given a heading, two columns, a wide line, and two columns below it
    heading: Box = (50, 40, 900, 40)
    wide: Box = (60, 310, 880, 20)
    upper = column(50, 400) + column(550, 400)
    lower = column(50, 400, top=350) + column(550, 400, top=350)
    boxes = [heading, *upper, wide, *lower]
    shuffled = np.random.default_rng(3).permutation(len(boxes))

    rows = order(quads_of(*(boxes[n] for n in shuffled)))

    assert [[int(shuffled[n]) for n in row] for row in rows] == [[n] for n in range(len(boxes))]


def test_three_columns_are_read_from_left_to_right() -> None:
    boxes = column(0, 300) + column(350, 300) + column(700, 300)

    assert order(quads_of(*boxes)) == [[n] for n in range(len(boxes))]


def test_a_slanted_receipt_keeps_its_rows() -> None:
    for degrees in (-8, -3, 3, 8):
        assert order(rotated(RECEIPT, degrees)) == RECEIPT_ROWS


def test_a_page_that_lies_on_its_side_is_read_in_order() -> None:
    # Given the receipt turned clockwise, so that its lines run downwards
    turned = rotated(RECEIPT, 90)
    # The corners start at the top left again, as the detector gives them
    downwards = np.roll(turned, 1, axis=1)

    assert order(downwards) == RECEIPT_ROWS


def test_a_page_on_its_head_is_read_in_order() -> None:
    upside_down = np.roll(rotated(RECEIPT, 180), 2, axis=1)

    assert order(upside_down, upside_down=True) == RECEIPT_ROWS


def test_text_has_one_row_a_line() -> None:
    lines = [Line(quad=quad, text=f"w{n}", score=1) for n, quad in enumerate(as_quads(RECEIPT[::-1]))]

    ordered, text = arrange(lines)

    assert text == "w7\nw6 w5\nw4 w3 w2\nw1 w0"
    assert [line.text for line in ordered] == text.split()


def test_quads_become_plain_numbers_to_a_tenth_of_a_pixel() -> None:
    quads = np.array([[(0.04, 1.26), (9.96, 1.5), (10, 4), (0, 3.14159)]], np.float32)

    assert as_quads(quads) == [((0.0, 1.3), (10.0, 1.5), (10.0, 4.0), (0.0, 3.1))]
    assert as_quads(np.empty((0, 4, 2), np.float32)) == []


def test_a_page_without_lines_has_no_text() -> None:
    assert arrange([]) == ((), "")


BOXES = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 900), st.integers(1, 300)), max_size=40
)


@given(BOXES, st.floats(-45, 45), st.booleans())
def test_every_line_is_read_exactly_once(boxes: list[Box], degrees: float, upside_down: bool) -> None:
    rows = order(rotated(quads_of(*boxes), degrees), upside_down=upside_down)

    assert sorted(n for row in rows for n in row) == list(range(len(boxes)))
    assert all(rows)


@given(BOXES)
def test_lines_of_a_row_run_from_left_to_right(boxes: list[Box]) -> None:
    flat = [(x, y, w + 2 * h, h) for x, y, w, h in boxes]

    for row in order(quads_of(*flat)):
        lefts = [flat[n][0] for n in row]
        assert lefts == sorted(lefts)
