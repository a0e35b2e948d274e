"""The first rungs read what the pool reads: with the real models, on one drawn receipt."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.bench.baseline import Batched, FixedShapes, OneAtATime
from worker.bench.corpus import accuracy, load_corpus
from worker.bench.drawings import draw_receipts
from worker.bench.readers import Reader


@pytest.mark.parametrize("rung", [OneAtATime, FixedShapes, Batched])
def test_each_rung_reads_the_page(rung: type[Reader], tmp_path: Path) -> None:
    draw_receipts(tmp_path, 1)
    corpus = load_corpus(tmp_path, 1, tmp_path)
    reader = rung()
    try:
        text = reader.read(str(corpus.paths[0]))
    finally:
        reader.close()
    found = accuracy(corpus.pages, [text])
    assert found is not None
    assert found.character_f1 > 0.97
    assert found.word_f1 > 0.9
    assert reader.model.startswith("PP-OCR")
