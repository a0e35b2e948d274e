from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from producer.errors import Unavailable
from producer.job import PageResult, ReadOptions
from producer.settings import Settings
from tests.documents import SAMPLES, character_f1, truth
from tests.worker.card_stand_in import stand_in
from tests.worker.compiled_kernels import COMPILER
from worker.device import DeviceFailed, Trouble
from worker.engines import PpOcr
from worker.models import available_models

RECEIPT = SAMPLES / "receipt.jpg"


class Decoded:
    """A page that needs no decoding; see `worker.rasterise.Raster`."""

    angle = 0

    def __init__(self, path: Path) -> None:
        self.pixels = np.asarray(Image.open(path).convert("RGB"), np.uint8)
        self.height, self.width = self.pixels.shape[:2]


def read(engine: PpOcr, options: ReadOptions) -> PageResult:
    with engine.passage(options, time.monotonic() + 120, lambda: False) as passage:
        return passage.read(1, Decoded(RECEIPT), 0)


@pytest.mark.skipif(COMPILER is None or "PP-OCRv6_small" not in available_models(), reason="g++ or a model is missing")
@pytest.mark.parametrize("preprocess", ["auto", "host"])
def test_a_page_is_read_on_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, preprocess: str) -> None:
    # Given an engine beside a stand-in for a card, with few shapes
    stand_in(monkeypatch, tmp_path)
    settings = Settings(
        device="cuda",
        precision="fp32",
        strict_runtime=True,
        preprocess=preprocess,
        detector_sizes=((896, 640), (1120, 512)),
        detector_batches=(1,),
        recogniser_widths=(256, 640),
        recogniser_batches=(2, 8),
    )
    engine = PpOcr(settings)
    engine.start()
    try:
        pages = [read(engine, ReadOptions(orientation=orientation)) for orientation in (False, True)]
    finally:
        engine.stop()

    # Then it reads what stands there
    assert engine.on_card
    assert "cuda" in pages[0].model
    assert all(character_f1(page.text, truth(RECEIPT)[0]) > 0.95 for page in pages)


class CUDARuntimeError(RuntimeError):
    """As CuPy has it."""

    status = 700


@pytest.mark.skipif(COMPILER is None or "PP-OCRv6_small" not in available_models(), reason="g++ or a model is missing")
@pytest.mark.parametrize("place", ["Array.set", "Array.get"])
def test_a_card_that_fails_takes_no_more_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    # Given an engine whose card fails while a page is brought there, or under a batch
    stand_in(monkeypatch, tmp_path)
    engine = PpOcr(
        Settings(
            device="cuda",
            precision="fp32",
            detector_sizes=((896, 640),),
            detector_batches=(1,),
            recogniser_widths=(640,),
            recogniser_batches=(2,),
        )
    )
    engine.start()
    assert engine.trouble() is None

    def fail(*_: object, **__: object) -> None:
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setattr(f"tests.worker.card_stand_in.{place}", fail)
    try:
        # Then the page that was on it is told from those that come later, and the engine says that it reads no more
        with pytest.raises(DeviceFailed):
            read(engine, ReadOptions())
        with pytest.raises(Unavailable) as refused:
            read(engine, ReadOptions())
        assert not isinstance(refused.value, DeviceFailed)
        assert engine.trouble() == Trouble("cudaErrorIllegalAddress: an illegal memory access was encountered")
    finally:
        engine.stop()


def test_a_card_that_the_models_fill_takes_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an engine whose models leave 1 of 80 GB
    engine = PpOcr(Settings(predictor="fake"))
    engine.on_card = True
    monkeypatch.setattr("worker.kernels.missing", lambda: "")
    monkeypatch.setattr("worker.kernels.memory", lambda: (1_000_000_000, 80_000_000_000))

    # Then the worker says so instead of failing page after page
    try:
        with pytest.raises(Unavailable, match=r"1\.0 of its 80 GB left .*OCRPOOL_WORKERS_PER_CARD"):
            engine.start()
    finally:
        engine.stop()


def test_no_batch_waits_for_a_page_that_has_stepped_aside() -> None:
    engine = PpOcr(Settings(predictor="fake", device="cpu"))

    def coming() -> set[int]:
        return {stage._coming for stage in engine.stages}

    engine.start()
    try:
        with engine.passage(ReadOptions(orientation=True), time.monotonic() + 120, lambda: False) as passage:
            assert coming() == {1}
            passage.step_aside()
            assert coming() == {0}
            # It may come after all
            assert passage.read(1, Decoded(RECEIPT), 0).lines
        assert coming() == {0}
    finally:
        engine.stop()
