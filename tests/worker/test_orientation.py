"""Which lines stand upside down."""

from __future__ import annotations

import numpy as np
import pytest

from worker.orientation import LONG_LINE, settle
from worker.recognition import LINE_HEIGHT, LineInput


def lines(*widths: int) -> list[LineInput]:
    return [LineInput(None, np.zeros((4, 2), np.float32), width, (LINE_HEIGHT, width)) for width in widths]


@pytest.mark.parametrize("page_turned", [False, True])
def test_short_lines_follow_most_of_the_long_ones(page_turned: bool) -> None:
    long, short = LONG_LINE + 100, LONG_LINE - 1
    page = lines(long, short, long, short, long)
    said = [page_turned, True, page_turned, False, not page_turned]

    assert settle(page, said) == [page_turned, page_turned, page_turned, page_turned, not page_turned]


def test_a_page_of_short_lines_keeps_what_was_said_of_each() -> None:
    assert settle(lines(30, 40), [True, False]) == [True, False]
