"""Which lines stand upside down."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from producer.errors import InvalidRequest
from producer.job import ReadOptions
from producer.settings import Settings
from tests.model_folders import write_folder
from worker import zoo
from worker.engines import PpOcr
from worker.models import available_models, load_model
from worker.orientation import LONG_LINE, settle
from worker.rasterise import RasterPage
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


@pytest.mark.skipif("PP-OCRv6_small" not in available_models(), reason="PP-OCRv6_small is not installed")
def test_a_model_without_a_classifier_reads_but_refuses_to_tell_orientation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "folder", load_model("PP-OCRv6_small"))
    monkeypatch.setattr(zoo, "BUNDLES", {})  # as where rapidocr is not installed
    engine = PpOcr(Settings(model=str(folder), device="cpu", detector_sizes=((320, 320),), predictor_threads=1))
    memory = os.memfd_create("page")
    os.truncate(memory, 300 * 300 * 3)
    page = RasterPage(memory, 300, 300, 0, freed=lambda: None)
    engine.start()
    try:
        with engine.passage(ReadOptions(), math.inf, lambda: False) as passage:
            assert passage.read(1, page, 0).lines == ()
        with (
            engine.passage(ReadOptions(orientation=True), math.inf, lambda: False) as passage,
            pytest.raises(InvalidRequest, match=r"folder .* has no classifier: ask without orientation"),
        ):
            passage.read(1, page, 0)
    finally:
        engine.stop()
        page.close()
        os.close(memory)
