"""The statistics, and what is told from the recogniser's tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worker.bench.baseline import greedy, paddlex_batches, paddlex_size
from worker.bench.ceiling import line_widths, padding, paddlex_padding
from worker.bench.corpus import Page, accuracy, load_corpus
from worker.bench.drawings import mixed_documents
from worker.bench.figures import Spread, paired_ratio, percentile
from worker.tensors import Cut, HostKernels


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0, "of few, the highest stands for the tail"
    assert percentile([3.0], 50) == 3.0


def test_a_spread_is_in_milliseconds() -> None:
    spread = Spread.of([0.1, 0.2, 0.3, 0.4])
    assert (spread.documents, spread.p50_ms, spread.p99_ms) == (4, 200, 400)
    assert spread.mean_ms == pytest.approx(250)


def test_a_ratio_is_of_rounds_not_of_medians() -> None:
    assert paired_ratio(ours=[1, 2, 4], theirs=[2, 4, 8]) == 2, "the machine slowed down, and the ratio did not"


def test_a_tensor_tells_its_lines_and_its_padding() -> None:
    pages = [np.full((48, width, 3), 255 if width % 2 else 127, np.uint8) for width in (60, 91)]
    batch = HostKernels().cut([Cut(page, np.eye(3), page.shape[1]) for page in pages], 4, (48, 100))
    assert line_widths(batch) == [60, 91, 0, 0]
    assert padding([batch]) == {"width": 49 / 400, "empty": 200 / 400, "lines": 2}


def test_paddlex_sorts_a_pages_lines_and_pads_each_batch_to_its_widest() -> None:
    widths = [500, 100, 330, 100, 100, 100, 100, 4000]
    assert paddlex_batches(widths) == [([1, 3, 4, 5, 6, 2], 330), ([0, 7], 3200)]
    assert paddlex_padding([[160], [320, 320]]) == pytest.approx(160 / (3 * 320))
    assert paddlex_size(1000, 500) == (1472, 736)
    assert paddlex_size(9000, 3000) == (4000, 1344)


def test_greedy_decoding_drops_repeats_then_blanks() -> None:
    scores = np.eye(3, dtype=np.float32)[[[1, 1, 0, 1, 2, 2, 0]]]
    assert greedy(scores, ("", "a", "b")) == ["aab"]


def test_accuracy_counts_pages_with_a_truth_alone() -> None:
    pages = [Page(Path("a"), "Total 10"), Page(Path("b"), None)]
    found = accuracy(pages, ["TOTAL 1O", "anything"])
    assert found is not None
    assert (found.pages, found.word_f1) == (1, 0.5)
    assert found.character_f1 == pytest.approx(6 / 7)
    assert accuracy(pages[1:], ["anything"]) is None


def test_a_corpus_is_a_folder_with_texts_beside_its_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "c.PNG", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("0,0,9,0,9,9,0,9,ONE, TWO\nbroken\n")
    corpus = load_corpus(tmp_path, 9, tmp_path / "scratch")
    assert [(page.path.name, page.text) for page in corpus.pages] == [
        ("a.png", "a"),
        ("b.jpg", "ONE, TWO"),
        ("c.PNG", None),
    ]


def test_mixed_documents_are_the_same_for_a_seed() -> None:
    first, second = mixed_documents(3), mixed_documents(3)
    documents = [next(first) for _ in range(12)]
    assert documents[:2] == documents[10:]
    assert {pages for _, pages in documents} == {1, 5}
    assert [len(next(second)[0]) for _ in range(5)] == [len(document) for document, _ in documents[:5]]
