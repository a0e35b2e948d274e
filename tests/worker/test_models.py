from __future__ import annotations

import subprocess
import sys

import pytest

from producer.errors import Unavailable
from producer.settings import Settings
from worker.models import available_models, load_model
from worker.runtimes import choose

needs_v6 = pytest.mark.skipif("PP-OCRv6_small" not in available_models(), reason="PP-OCRv6_small is not installed")


def test_an_unknown_model_is_refused_with_the_list_of_those_that_run_here() -> None:
    with pytest.raises(Unavailable, match=r"PP-OCRv9 cannot be loaded.*this machine can run: ") as refused:
        load_model("PP-OCRv9")

    assert all(name in str(refused.value) for name in available_models())


@needs_v6
def test_auto_takes_the_first_model_that_this_machine_runs_and_says_why() -> None:
    choice = choose(Settings())

    assert choice.model.name == "PP-OCRv6_small"
    assert choice.reason.startswith("PP-OCRv6_small on onnxruntime, ")


def test_auto_passes_over_what_is_missing_and_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.predictors.onnx.installed", lambda: False)
    monkeypatch.setattr("worker.predictors.paddle.installed", lambda: False)

    with pytest.raises(Unavailable, match=r"onnxruntime is not installed.*Install ocrpool\[cpu\]"):
        choose(Settings())


@needs_v6
def test_a_model_is_not_run_by_another_models_runtime() -> None:
    with pytest.raises(Unavailable, match="PP-OCRv6_small runs on onnxruntime, not on paddle"):
        choose(Settings(predictor="paddle", model="PP-OCRv6_small"))


def test_the_fake_is_taken_only_when_asked_for() -> None:
    choice = choose(Settings(predictor="fake"))

    assert choice.model.runtime == "fake"
    assert choice.model.fingerprint == "fake"


@pytest.mark.parametrize("name", available_models())
def test_a_model_has_its_files_its_characters_and_a_fingerprint(name: str) -> None:
    model = load_model(name)

    assert all(path.exists() for path in model.paths.values())
    assert (model.characters[0], model.characters[-1]) == ("", " ")
    assert {*"09azAZ中文%"} <= set(model.characters)
    assert model.fingerprint.startswith(f"{name} ")
    assert model.runtime in model.fingerprint
    assert load_model(name).fingerprint == model.fingerprint


def test_looking_around_imports_no_runtime() -> None:
    code = """
import sys
from worker.models import available_models
available_models()
loaded = {"onnxruntime", "paddle", "rapidocr", "rapidocr_paddle"} & set(sys.modules)
assert not loaded, loaded
"""

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@needs_v6
def test_a_card_that_cannot_be_used_is_told_and_the_cpu_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kernels.missing", lambda: "libcudnn.so.9 is missing")

    choice = choose(Settings(device="cuda"))

    assert choice.execution.device == "cpu"
    assert "cuda was passed over, because libcudnn.so.9 is missing" in choice.reason
    with pytest.raises(Unavailable, match=r"OCRPOOL_STRICT_RUNTIME is set: libcudnn.so.9 is missing"):
        choose(Settings(device="cuda", strict_runtime=True))
