"""Results that tests make up, and strategies for them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from producer.job import (
    ErrorDetail,
    Job,
    JobResult,
    JobState,
    Line,
    MediaType,
    PageFailure,
    PageOutcome,
    PageResult,
    Quad,
    Timings,
    new_job_id,
)

DAMAGED = ErrorDetail(code="corrupt_document", message="The page is <damaged> & *cut* short.")
TIMINGS = Timings(rasterise_ms=1, detect_ms=2, recognise_ms=3)


def box(left: float, top: float, width: float, height: float) -> Quad:
    right, bottom = left + width, top + height
    return (left, top), (right, top), (right, bottom), (left, bottom)


def line(text: str, quad: Quad, *, angle: int = 0, score: float = 0.9) -> Line:
    return Line.model_validate({"text": text, "quad": quad, "angle": angle, "score": score})


def read(number: int, rows: Sequence[Sequence[Line]], *, width: int = 800, height: int = 1000) -> PageResult:
    """A page with rows of lines, as a worker tells of it."""
    return PageResult(
        page=number,
        width=width,
        height=height,
        lines=tuple(one for row in rows for one in row),
        text="\n".join(" ".join(one.text for one in row) for row in rows),
        engine="pp-ocr",
        model="fake",
        timings=TIMINGS,
    )


def failed(number: int) -> PageFailure:
    return PageFailure(page=number, error=DAMAGED)


def result(*pages: PageOutcome, name: str = "scan.tiff") -> JobResult:
    return JobResult(id=new_job_id(), name=name, state=JobState.SUCCEEDED, pages=pages)


def job(found: JobResult, media_type: MediaType = MediaType.TIFF) -> Job:
    return Job(id=found.id, blob=found.id, media_type=media_type, size_bytes=1, name=found.name)


#: What a recogniser may say: any letters but control characters and halves of letters, never nothing.
texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30),
    st.text("\\`*_{}[]<>()#+-.!|~&=:\"' 1a", min_size=1, max_size=20),
    st.sampled_from(["1. one", "# x", "---", "-->", "<b>&amp;</b>", "| a | b |", "]]>", "合计 12.50", "    code", "*"]),
).filter(str.strip)
quads = st.builds(box, st.floats(0, 700), st.floats(0, 900), st.floats(1, 100), st.floats(1, 100))
lines = st.builds(line, texts, quads, angle=st.sampled_from([0, 180]), score=st.floats(0, 1))
pages = st.lists(st.lists(lines, min_size=1, max_size=3), max_size=5)
results = st.lists(st.one_of(st.none(), pages), min_size=1, max_size=4).map(
    lambda made: result(*(failed(n) if rows is None else read(n, rows) for n, rows in enumerate(made, 1)))
)
