"""The fits against every possible list, on cases small enough to try them all."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.settings import Size
from worker.detection import place, wanted_area
from worker.shapes.fit import COMMON_PAGES, LONGEST, SIZE_GRAIN, fit_sizes, fit_widths, need, with_common
from worker.shapes.padding import line_padding, page_padding

LINES = st.dictionaries(st.integers(1, 140), st.integers(1, 50), min_size=1, max_size=12)
CANDIDATES = st.sets(st.integers(1, 12), min_size=1, max_size=8).map(
    lambda steps: [10 * step for step in sorted(steps)]
)
PAGES = st.dictionaries(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.integers(1, 9), min_size=1, max_size=5
)


def computed(lines: dict[int, int], widths: tuple[int, ...]) -> int:
    return line_padding(lines, widths, (1,)).places


@given(LINES, CANDIDATES, st.integers(1, 8), st.data())
def test_no_list_of_widths_computes_less(
    lines: dict[int, int], candidates: list[int], count: int, data: st.DataObject
) -> None:
    required = data.draw(st.sets(st.sampled_from(candidates), max_size=2))

    fits = fit_widths(lines, count, candidates, required)

    demanded = {candidates[-1], *required}
    for length in range(1, min(count, len(candidates)) + 1):
        lists = [one for one in combinations(candidates, length) if demanded <= set(one)]
        if not lists:
            assert length not in map(len, fits.lists)
            continue
        (found,) = (n for n, one in enumerate(fits.lists) if len(one) == length)
        assert fits.lists[found] in lists
        assert fits.columns[found] == computed(lines, fits.lists[found])
        assert fits.columns[found] == min(computed(lines, one) for one in lists)


@given(LINES, CANDIDATES)
def test_widths_that_are_not_worth_their_place_are_left_out(lines: dict[int, int], candidates: list[int]) -> None:
    fits = fit_widths(lines, len(candidates), candidates)
    lengths = [len(fits.best(worth)) for worth in (0.0, 0.01, 0.1, 10.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert fits.columns[lengths[0] - 1] == min(fits.columns)
    assert lengths[-1] == 1


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_a_page_gets_the_area_that_it_needs_in_the_bucket_that_it_needs(height: int, width: int) -> None:
    bucket = need(height, width)
    assert all(side % SIZE_GRAIN == 0 and SIZE_GRAIN <= side <= LONGEST for side in bucket)
    _, scale = place([bucket], height, width)
    longest = LONGEST / max(height, width)
    assert height * width * scale**2 >= min(wanted_area(height, width), height * width * longest**2) * (1 - 1e-9)


@settings(deadline=None, max_examples=40)
@given(PAGES, st.integers(1, 3))
def test_no_list_of_sizes_computes_less(pages: dict[Size, int], count: int) -> None:
    sizes = fit_sizes({size: float(number) for size, number in pages.items()}, count)

    needs = [(need(*size), number) for size, number in pages.items()]
    rows, columns = ({size[axis] for size, _ in needs} for axis in (0, 1))

    def cost(chosen: tuple[Size, ...]) -> float:
        areas = [[r * c for r, c in chosen if r >= size[0] and c >= size[1]] for size, _ in needs]
        return sum(number * min(fit, default=float("inf")) for (_, number), fit in zip(needs, areas, strict=True))

    candidates = list(product(sorted(rows), sorted(columns)))
    best = min(cost(chosen) for chosen in combinations(candidates, min(count, len(candidates))))
    assert len(sizes) <= count
    assert cost(sizes) == best


@pytest.mark.parametrize("count", [4, 8])
def test_sizes_fitted_to_one_kind_of_page_have_room_for_others(count: int) -> None:
    sizes = fit_sizes(with_common({(933, 461): 1000}), count)
    assert all(
        any(rows >= need(*page)[0] and columns >= need(*page)[1] for rows, columns in sizes) for page in COMMON_PAGES
    )
    # And the pages that they were fitted to have one of their own.
    assert page_padding({(933, 461): 1}, sizes, (1,)).share < 0.1
