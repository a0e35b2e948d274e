from __future__ import annotations

import pytest

from producer.errors import Unavailable
from producer.settings import Settings
from worker.engines import PpOcr


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
