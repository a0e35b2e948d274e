"""Names of models, folders and PaddleX's cache: what each resolves to, and what is said where it is nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from producer.cards import FoundCards
from producer.errors import Unavailable
from producer.settings import Settings
from tests.model_folders import write_description, write_folder
from worker import official
from worker.models import available_models, load_model
from worker.predictors import Stage
from worker.runtimes import choose

needs_v6 = pytest.mark.skipif("PP-OCRv6_small" not in available_models(), reason="PP-OCRv6_small is not installed")
needs_v4 = pytest.mark.skipif("PP-OCRv4_mobile" not in available_models(), reason="PP-OCRv4_mobile is not installed")
bundled = pytest.mark.parametrize(
    "name", [pytest.param("PP-OCRv6_small", marks=needs_v6), pytest.param("PP-OCRv4_mobile", marks=needs_v4)]
)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """PaddleX's cache, empty."""
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(tmp_path / "paddlex"))
    official.cache_folder().mkdir(parents=True)
    return official.cache_folder()


def test_an_unknown_model_is_refused_with_the_list_of_those_that_run_here() -> None:
    with pytest.raises(Unavailable, match=r"PP-OCRv9 cannot be loaded.*this machine can run: ") as refused:
        load_model("PP-OCRv9")

    assert all(name in str(refused.value) for name in available_models())
    assert "PaddleX's download offers: PP-OCRv6_medium, " in str(refused.value)


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
def test_a_model_without_files_for_a_runtime_is_not_run_by_it(cache: Path) -> None:
    settings = Settings(predictor="paddle", model="PP-OCRv6_small", model_download=False)

    with pytest.raises(Unavailable, match=r"not on this machine for paddle, and downloads are off"):
        choose(settings)


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


@bundled
def test_a_folder_in_paddlexs_format_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = load_model(name)
    folder = write_folder(tmp_path / "invoices", model)

    choice = choose(Settings(model=str(folder)))

    assert choice.model.name == "invoices"
    assert choice.model.runtime == model.runtime
    assert choice.model.characters == model.characters
    assert choice.model.fingerprint.split(maxsplit=2)[::2] == ["invoices", model.fingerprint.split(maxsplit=2)[2]]


@bundled
def test_a_folder_without_a_classifier_borrows_the_bundled_one(name: str, tmp_path: Path) -> None:
    model = load_model(name)

    without = load_model(str(write_folder(tmp_path / "without", model)))
    own = load_model(str(write_folder(tmp_path / "own", model, list(Stage))))

    assert without.paths[Stage.ORIENTATION] == model.paths[Stage.ORIENTATION]
    assert own.paths[Stage.ORIENTATION].is_relative_to(tmp_path)


@needs_v6
def test_a_classifier_that_sees_other_shapes_is_passed_over(tmp_path: Path) -> None:
    model = load_model("PP-OCRv6_small")
    folder = write_folder(tmp_path / "folder", model, list(Stage))
    described = "PreProcess: {transform_ops: [{ResizeImage: {size: [160, 80]}}]}"
    (folder / "textline_ori" / "inference.yml").write_text(described)

    assert load_model(str(folder)).paths[Stage.ORIENTATION] == model.paths[Stage.ORIENTATION]


@needs_v6
def test_characters_that_yaml_would_take_for_something_else_stay_characters(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", load_model("PP-OCRv6_small"))
    text = r"""PostProcess: {character_dict: ["\u3000", 0, 1.0, ~, no, '''', "\"", ':', '#', 一]}"""
    (folder / "rec" / "inference.yml").write_text(text, encoding="utf-8")

    characters = load_model(str(folder)).characters

    assert characters == ("", "\u3000", "0", "1.0", "~", "no", "'", '"', ":", "#", "一", " ")


@needs_v6
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (shutil.rmtree, "folder .* does not exist"),
        (lambda folder: shutil.rmtree(folder / "rec"), "no folders for a detector .* and a recogniser"),
        (lambda folder: shutil.copytree(folder / "det", folder / "other_det"), "more than one detector"),
        (lambda folder: (folder / "rec/inference.yml").write_text("PostProcess: {}"), "lists no characters"),
        (lambda folder: (folder / "rec/inference.yml").write_text("a: ["), "inference.yml cannot be read"),
        (lambda folder: (folder / "rec/inference.yml").write_text("[]"), "is not a model's description"),
        (lambda folder: write_description(folder / "rec", ["a"], height=32), "lines 32 pixels high"),
    ],
    ids=["gone", "half", "ambiguous", "no characters", "broken", "list", "old"],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, harm: Callable[[Path], object], sentence: str) -> None:
    folder = write_folder(tmp_path / "folder", load_model("PP-OCRv6_small"))
    harm(folder)

    with pytest.raises(Unavailable, match=sentence):
        load_model(str(folder))


@needs_v6
@needs_v4
def test_a_name_is_found_in_paddlexs_cache_in_either_format(cache: Path, tmp_path: Path) -> None:
    for name, part in [("PP-OCRv6_small", "{}_onnx"), ("PP-OCRv4_mobile", "{}")]:
        folder = write_folder(tmp_path / name, load_model(name))
        for stage in ("det", "rec"):
            (folder / stage).rename(cache / part.format(f"PP-OCRv5_server_{stage}"))

    on_onnx = choose(Settings(model="PP-OCRv5_server"))
    on_paddle = choose(Settings(model="PP-OCRv5_server", predictor="paddle"))

    assert on_onnx.model.paths[Stage.RECOGNISER] == cache / "PP-OCRv5_server_rec_onnx" / "inference.onnx"
    assert on_paddle.model.paths[Stage.DETECTOR] == cache / "PP-OCRv5_server_det"
    assert available_models()["PP-OCRv5_server"] == "onnxruntime"
    for damaged in cache.glob("PP-OCRv5_server_rec*"):
        (damaged / "inference.yml").write_text("[")
    assert "PP-OCRv5_server" not in available_models()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("PP-OCRv6_small", ("PP-OCRv6_small_det", "PP-OCRv6_small_rec")),
        ("latin_PP-OCRv5_mobile", ("PP-OCRv5_mobile_det", "latin_PP-OCRv5_mobile_rec")),
        ("PP-OCRv4_server_doc", ("PP-OCRv4_server_det", "PP-OCRv4_server_rec_doc")),
        ("PP-OCRv9", None),
        ("UniMERNet", None),
    ],
)
def test_names_are_paddlexs(name: str, parts: tuple[str, str] | None) -> None:
    assert official.parts(name) == parts


def test_every_offered_name_is_of_that_form() -> None:
    assert all(official.parts(name) for name in official.OFFICIAL)


PADDLEX = """
import os, pathlib, shutil

class Models:
    def __contains__(self, name):
        return "v7" not in name

    def get_model_path(self, name, *, model_formats=None):
        if model_formats != ["paddle"]:
            raise Exception(f"No {model_formats[0]} package\\nfor {name}.")
        kept = pathlib.Path(os.environ["PADDLE_PDX_CACHE_HOME"]) / "official_models" / name
        print("noise on standard output")
        return shutil.copytree(pathlib.Path(os.environ["UPSTREAM"]) / name.rsplit("_", 1)[1], kept)

official_models = Models()
"""


@pytest.fixture
def paddlex(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    """A package with the one call of PaddleX that is used; it copies what PaddleX would download."""
    package = tmp_path / "site" / "paddlex" / "inference" / "utils"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "official_models.py").write_text(PADDLEX)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("UPSTREAM", str(tmp_path / "upstream"))


@needs_v4
@pytest.mark.usefixtures("paddlex")
def test_a_model_that_is_not_here_is_downloaded_in_a_format_that_is_offered(cache: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "upstream", load_model("PP-OCRv4_mobile"))

    choice = choose(Settings(model="PP-OCRv4_server"))

    assert choice.model.runtime == "paddle"
    assert choice.model.paths[Stage.DETECTOR] == cache / "PP-OCRv4_server_det"
    assert "paddlex" not in sys.modules


@needs_v6
@pytest.mark.usefixtures("paddlex")
def test_downloads_that_fail_say_why_in_one_line() -> None:
    with pytest.raises(Unavailable, match=r"No onnx package for PP-OCRv5_server_det") as refused:
        choose(Settings(model="PP-OCRv5_server", predictor="onnxruntime"))
    with pytest.raises(Unavailable, match="PaddleX has no model PP-OCRv7_small_det"):
        choose(Settings(model="PP-OCRv7_small", predictor="onnxruntime"))

    assert "\n" not in str(refused.value)


@needs_v6
def test_nothing_is_downloaded_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def refuse(name: str, runtime: str) -> None:
        raise AssertionError(f"{name} was downloaded")

    monkeypatch.setattr(official, "download", refuse)

    choose(Settings())
    with pytest.raises(Unavailable, match="downloads are off"):
        choose(Settings(model="PP-OCRv5_server", model_download=False))


@pytest.mark.skipif(find_spec("paddlex") is None, reason="paddlex is not installed: pip install paddlex")
def test_paddlex_itself_says_that_no_source_is_in_reach(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")

    with pytest.raises(Unavailable, match="PaddleX could not download it for paddle: No available model hosting"):
        official.download("PP-OCRv6_small", "paddle")


def test_looking_around_imports_no_runtime() -> None:
    code = """
import sys
from worker.models import available_models
available_models()
loaded = {"onnxruntime", "paddle", "paddlex", "rapidocr", "rapidocr_paddle"} & set(sys.modules)
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


@needs_v6
def test_a_card_that_the_driver_does_not_tell_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtimes.cards_for", lambda settings: FoundCards((), "NVML says: no", amiss=True))

    assert "cuda was passed over, because NVML says: no" in choose(Settings()).reason
    with pytest.raises(Unavailable, match=r"OCRPOOL_STRICT_RUNTIME is set: NVML says: no"):
        choose(Settings(strict_runtime=True))


@needs_v6
def test_a_card_that_is_asked_for_needs_no_driver_that_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtimes.cards_for", lambda settings: FoundCards((), "no nvidia-ml-py", amiss=True))
    monkeypatch.setattr("worker.runtimes.troubles", lambda device, model: iter(()))

    assert choose(Settings(device="cuda", strict_runtime=True)).execution.device == "cuda"
