"""Each of PaddleOCR's options is one of the pool's."""

from __future__ import annotations

import pytest

from producer.errors import InvalidRequest, Unavailable
from producer.gateway.paddle_options import OcrOptions, ServedModels, family
from producer.job import ReadOptions
from producer.ledger import Ledger
from producer.settings import Settings


def test_every_option_changes_something_or_is_refused() -> None:
    others = {
        "useTextlineOrientation": True,
        "textDetLimitSideLen": 640,
        "textDetThresh": 0.35,
        "textDetBoxThresh": 0.6,
        "textDetUnclipRatio": 2.0,
        "textRecScoreThresh": 0.9,
        "visualize": False,
    }
    for name, value in others.items():
        assert OcrOptions.model_validate({name: value}).read_options() != ReadOptions(), name
    never = {"useDocOrientationClassify": True, "useDocUnwarping": True, "returnWordBox": True}
    for name, value in never.items():
        with pytest.raises(InvalidRequest, match=name):
            OcrOptions.model_validate({name: value}).read_options()
        assert OcrOptions.model_validate({name: False}).read_options() == ReadOptions()
    known = {str(field.alias) for field in OcrOptions.model_fields.values()}
    assert known == {*others, *never, "textDetLimitType"}


def test_a_side_is_at_least_so_long_unless_its_type_is_given() -> None:
    for given, side in (({}, "min"), ({"textDetLimitType": "max"}, "max")):
        options = OcrOptions.model_validate({"textDetLimitSideLen": 640, **given}).read_options()
        assert (options.detector_side, options.detector_side_px) == (side, 640)


@pytest.mark.parametrize(
    ("runs", "named"),
    [
        ("PP-OCRv6_small 12ab onnxruntime 1.23", "PP-OCRv6"),
        ("PP-OCRv5_server 12ab paddle 3.2", "PP-OCRv5"),
        ("latin_PP-OCRv5_mobile 12ab paddle 3.2", "PP-OCRv5-latin"),
        ("fake", ""),
        ("my-model 12ab onnxruntime 1.23", ""),
    ],
)
def test_the_name_of_a_worker_s_models(runs: str, named: str) -> None:
    assert family(runs) == named


def test_what_workers_run_is_served_even_while_they_are_away(settings: Settings, ledger: Ledger) -> None:
    now = 0.0
    models = ServedModels(settings, ledger, clock=lambda: now)
    with pytest.raises(Unavailable):
        models.check("PP-OCRv6")
    ledger.announce("one", {"model": "PP-OCRv6_small 12ab onnxruntime 1.23"})
    models.check("PP-OCRv6")
    with pytest.raises(InvalidRequest, match="'PP-OCRv5' is not served here; PP-OCRv6 is"):
        models.check("PP-OCRv5")

    ledger.withdraw("one")
    now += 60
    models.check("PP-OCRv6")

    ledger.announce("two", {"model": "PP-OCRv5_mobile 12ab onnxruntime 1.23"})
    now += 60
    models.check("PP-OCRv5")
    with pytest.raises(InvalidRequest):
        models.check("PP-OCRv6")
