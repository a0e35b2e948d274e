"""Which pages a text such as `2,4-6` names."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import page_ranges
from producer.errors import InvalidRequest
from producer.job import ReadOptions

RUNS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=6)


def told(runs: list[tuple[int, int]]) -> str:
    return ",".join(str(first) if not more else f"{first}-{first + more}" for first, more in runs)


@given(runs=RUNS, document_pages=st.integers(1, 60), span_pages=st.integers(1, 9))
def test_spans_cover_each_page_that_is_asked_for_and_there_once_and_in_order(
    runs: list[tuple[int, int]], document_pages: int, span_pages: int
) -> None:
    asked = sorted({page for first, more in runs for page in range(first, first + more + 1)})
    options = ReadOptions(pages=told(runs))
    assert list(page_ranges.numbers(options.pages)) == asked
    assert ReadOptions(pages=options.pages) == options
    there = [page for page in asked if page <= document_pages]
    if not there:
        with pytest.raises(InvalidRequest, match=r"^pages: "):
            options.spans(document_pages, span_pages)
        return
    spans = options.spans(document_pages, span_pages)
    assert [page for span in spans for page in span.pages] == there
    assert all(span.count <= span_pages for span in spans)


def test_no_text_is_all_pages() -> None:
    assert [str(span) for span in ReadOptions().spans(12, 8)] == ["1+8", "9+4"]
    assert list(islice(page_ranges.numbers(""), 3)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "normal"), [("3,1-2", "1-3"), ("5, 2 - 3", "2-3,5"), ("1-4,2", "1-4"), ("7,7", "7"), ("", "")]
)
def test_there_is_one_way_to_say_it(text: str, normal: str) -> None:
    assert ReadOptions(pages=text).pages == normal


@pytest.mark.parametrize("text", ["0", "3-1", "a", "1,", "-3", "2-", "1;2", "9999999", "\u0663", "1" * 2_001])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 2,4-6|at most 2000"):
        ReadOptions(pages=text)
