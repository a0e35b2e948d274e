"""A decoder that was taken over answers what it likes: it costs the worker a page, and never more."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producer.errors import CorruptDocument, DocumentError, Internal
from producer.job import MediaType
from producer.settings import Settings
from worker import decoder
from worker.own_text import OwnText
from worker.rasterise import Rasteriser

#: In place of a decoder: answers a document's requests with what the document holds, and ends after that.
LIAR = """
import json, os, socket, sys
channel, replies = socket.socket(fileno=int(sys.argv[1])), []
channel.send(b'{"kind": "ready", "walls": []}')
while True:
    request, descriptors, _, _ = socket.recv_fds(channel, 65536, 1)
    if b"draw" not in request:
        replies = json.loads(os.pread(descriptors[0], 1 << 20, 0))
    os.close(descriptors[0])
    if not replies:
        break
    channel.send(replies.pop(0).encode("latin-1"))
"""
PIXELS = 1000

JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([]) | st.just({})
)
HONEST: dict[str, dict[str, Any]] = {
    "pages": {"pages": 3},
    "size": {"width": 20, "height": 10},
    "page": {"angle": 0},
    "text": {
        "width": 20,
        "height": 10,
        "angle": 0,
        "lines": [{"quad": [1, 1, 9, 1, 9, 5, 1, 5], "text": "sound"}],
        "doubt": "",
    },
    "refusal": {"code": "corrupt_document", "message": "The page is damaged.", "retire": False},
}


@st.composite
def nearly_honest(draw: st.DrawFn) -> str:
    """An answer as decoders give it, perhaps with one field of another value, one more or one less."""
    kind = draw(st.sampled_from([*HONEST]))
    answer = {"kind": kind, **HONEST[kind]}
    field = draw(st.sampled_from([*answer, "more"]))
    change = draw(st.sampled_from(["none", "none", "none", "value", "less"]))
    if change == "value":
        answer[field] = draw(JUNK)
    elif change == "less":
        answer.pop(field, None)
    return json.dumps(answer)


ANSWERS = st.lists(
    nearly_honest() | st.binary(min_size=1, max_size=40).map(lambda junk: junk.decode("latin-1")), max_size=3
)


def said(kind: str, **changes: object) -> str:
    return json.dumps({"kind": kind, **HONEST[kind], **changes})


@pytest.fixture(scope="module")
def lied_to() -> Iterator[Rasteriser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "COMMAND", (sys.executable, "-I", "-S", "-c", LIAR))
        rasteriser = Rasteriser(Settings(rasterise_processes=1, max_page_pixels=PIXELS, page_timeout_s=5))
        rasteriser.start()
        yield rasteriser
        rasteriser.stop()


def read(rasteriser: Rasteriser, path: Path, answers: list[str]) -> str:
    """The code of what became of the page; empty where it was read."""
    path.write_text(json.dumps(answers))
    try:
        with rasteriser.page(path, MediaType.PNG, 1) as raster:
            assert raster.pixels.shape == (raster.height, raster.width, 3)
            assert raster.pixels.size <= 3 * PIXELS
            return ""
    except (DocumentError, Internal) as error:
        code, sentence = error.code, str(error)
    assert sentence.isprintable()
    return code


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=ANSWERS)
@example(answers=[said("size", width=PIXELS, height=2)])
@example(answers=[said("size"), said("size")])
@example(answers=[said("page")])
@example(answers=[said("refusal", message="\x1b[2J\nforged")])
def test_whatever_a_decoder_says_becomes_a_page_or_an_error_of_the_page(
    lied_to: Rasteriser, tmp_path: Path, answers: list[str]
) -> None:
    me = psutil.Process()
    assert read(lied_to, tmp_path / "honest", [said("size"), said("page")]) == ""
    gc.collect()
    before = me.num_fds()

    read(lied_to, tmp_path / "lie", answers)

    assert read(lied_to, tmp_path / "honest", [said("size"), said("page")]) == ""
    gc.collect()
    assert (me.num_fds(), lied_to.raster_bytes) == (before, 0)


def line(**changes: object) -> list[dict[str, object]]:
    return [{**HONEST["text"]["lines"][0], **changes}]


@pytest.mark.parametrize(
    "lie",
    [
        said("text", width=PIXELS, height=2),
        said("text", width=8),
        said("text", doubt="believe me"),
        said("text", lines=line(quad=[1, 1, 9, 1, 9, 5, 1])),
        said("text", lines=line(quad=[-1, 1, 9, 1, 9, 5, 1, 5])),
        said("text", lines=line(quad=[1, 1, 9, 1, 9, 11, 1, 5])),
        said("text", lines=line(quad=[1, 1, 9, float("nan"), 9, 5, 1, 5])),
        said("text", lines=line(text="")),
        said("text", lines=line(text="\x1b[2J")),
        said("text", lines=line(text="\u202etxet")),
        said("text", lines=line(text="\ud800")),
        said("text", lines=line(text="long" * (1 << 16))),
        said("size"),
        said("pages"),
    ],
)
def test_a_text_that_no_page_has_is_not_believed(lied_to: Rasteriser, tmp_path: Path, lie: str) -> None:
    honest, path = tmp_path / "honest", tmp_path / "lie"
    honest.write_text(json.dumps([said("text")]))
    path.write_text(json.dumps([lie]))

    assert OwnText.of(lied_to, path, 1).doubt == "unreadable"

    assert OwnText.of(lied_to, honest, 1).as_page(1, 1.0).text == "sound"


@pytest.mark.parametrize("code", ["cancelled", "deadline_exceeded", "unavailable", "not_found", "poison_document", "x"])
def test_a_decoder_cannot_end_a_job_or_have_a_page_read_for_ever(
    lied_to: Rasteriser, tmp_path: Path, code: str
) -> None:
    assert read(lied_to, tmp_path / "lie", [said("refusal", code=code)]) == CorruptDocument.code


def test_a_decoder_cannot_make_pages_of_which_there_would_be_no_end(lied_to: Rasteriser, tmp_path: Path) -> None:
    path = tmp_path / "lie"
    path.write_text(json.dumps([said("pages", pages=10**12)]))
    with pytest.raises(Internal):
        lied_to.count_pages(path, MediaType.PDF)
