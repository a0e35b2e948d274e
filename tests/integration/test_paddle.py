"""A whole pool on Paddle Inference."""

from __future__ import annotations

import pytest

from producer import JobState, PageResult, Producer
from producer.embedded import Embedded
from producer.settings import Settings
from tests.documents import SAMPLES, character_f1, truth
from worker.models import available_models


@pytest.mark.skipif("PP-OCRv4_mobile" not in available_models(), reason="no Paddle, or no models for it (Python 3.13)")
def test_a_receipt_is_read_by_paddle(settings: Settings) -> None:
    chosen = settings.model_copy(update={"predictor": "paddle"})
    with Embedded(chosen) as parts, Producer(chosen) as producer:
        parts.start_workers(1)
        job = producer.submit(SAMPLES / "receipt.jpg")
        assert job.wait(timeout_s=120).state is JobState.SUCCEEDED
        (page,) = job.result().pages

    assert isinstance(page, PageResult)
    assert page.model.startswith("PP-OCRv4_mobile ")
    assert character_f1(page.text, truth(SAMPLES / "receipt.jpg")[0]) > 0.95
