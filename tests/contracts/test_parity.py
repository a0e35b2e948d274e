"""The same weights on both runtimes: PP-OCRv6's ONNX models, converted for Paddle with x2paddle, answer alike.

x2paddle needs an older `onnx` than the project, so it has a virtual environment of its own: `make parity` makes it and
runs this. Without it, this is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.documents import SAMPLES
from tests.model_folders import FOLDERS, bundled_characters, write_description
from worker.detection import Detector
from worker.models import Model, available_models, load_model
from worker.predictors import Answers, Execution, Predictor, Shape, Stage
from worker.recognition import LineInput, Recogniser, cuts
from worker.runtimes import build_predictor
from worker.shapes import DEFAULTS
from worker.tensors import Batch, HostKernels, Pixels

X2PADDLE = Path(__file__).parents[2] / ".venv-parity/bin/x2paddle"
NAME = "PP-OCRv6_small"
#: How far apart two runtimes' probabilities may lie.
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.skipif(not X2PADDLE.exists(), reason="x2paddle has an environment of its own: make parity"),
    pytest.mark.skipif(
        not {NAME, "PP-OCRv4_mobile"} <= set(available_models()), reason="not both runtimes are installed"
    ),
]


SHAPES = DEFAULTS["cpu"]


@pytest.fixture(scope="module")
def onnxruntime() -> Model:
    return load_model(NAME)


@pytest.fixture(scope="module")
def paddle(onnxruntime: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same detector and recogniser in Paddle's format."""
    root = tmp_path_factory.mktemp("parity")
    for stage in (Stage.DETECTOR, Stage.RECOGNISER):
        made = root / f"{FOLDERS[stage]}-converted"
        command = [str(X2PADDLE), "--framework", "onnx", "--disable_feedback", "True"]
        command += ["--model", str(onnxruntime.paths[stage]), "--save_dir", str(made)]
        subprocess.run(command, check=True, timeout=300, capture_output=True, cwd=root)
        folder = root / "converted" / FOLDERS[stage]
        folder.mkdir(parents=True)
        for suffix in ("json", "pdiparams"):
            shutil.move(made / "inference_model" / f"model.{suffix}", folder / f"inference.{suffix}")
    write_description(root / "converted" / FOLDERS[Stage.RECOGNISER], bundled_characters(NAME))
    return load_model(str(root / "converted"), ["paddle"])


@pytest.fixture(scope="module")
def page() -> Pixels:
    return np.asarray(Image.open(SAMPLES / "receipt.jpg").convert("RGB"), np.uint8)


@pytest.fixture(scope="module")
def lines(page: Pixels, onnxruntime: Model) -> list[LineInput]:
    """Every line of the page."""
    detector, recogniser = Detector(SHAPES), Recogniser(onnxruntime, SHAPES)
    item, bucket = detector.prepare(page)
    predictor = build_predictor(onnxruntime, Stage.DETECTOR, [Shape(1, *bucket)], Execution())
    (found,) = detector.run(predictor, bucket, [item])
    return recogniser.prepare(page, detector.finish(found, item))


def answers(model: Model, stage: Stage, ending: Stage, batches: list[Batch]) -> list[Answers]:
    """What one stage of a model answers with another's ending: the classifier's leaves probabilities as they are."""
    paths = {ending: model.paths[stage]}
    shapes = [Shape.of(batch) for batch in batches]
    predictor = build_predictor(Model(model.name, model.runtime, paths, (), ""), ending, shapes, Execution())
    return [predictor.run(batch).copy() for batch in batches]


def test_the_detectors_find_the_same_text(onnxruntime: Model, paddle: Model, page: Pixels) -> None:
    item, bucket = Detector(SHAPES).prepare(page)
    batch = HostKernels().shrink([item], 1, bucket)

    maps = [answers(model, Stage.DETECTOR, Stage.ORIENTATION, [batch])[0] for model in (onnxruntime, paddle)]
    levels = [answers(model, Stage.DETECTOR, Stage.DETECTOR, [batch])[0] for model in (onnxruntime, paddle)]

    assert maps[0].max() > 0.9, "there is text on the page"
    print(f"detector: largest difference {np.abs(maps[0] - maps[1]).max():.2g}")
    assert np.abs(maps[0] - maps[1]).max() < TOLERANCE
    assert np.abs(levels[0].astype(int) - levels[1].astype(int)).max() <= 1


def test_the_recognisers_read_the_same_classes(onnxruntime: Model, paddle: Model, lines: list[LineInput]) -> None:
    batches = [HostKernels().cut(cuts([line]), 1, line.bucket) for line in lines]

    several = [answers(model, Stage.RECOGNISER, Stage.ORIENTATION, batches) for model in (onnxruntime, paddle)]

    pairs = list(zip(*several, strict=True))
    differences = [float(np.abs(first - second).max()) for first, second in pairs]
    steps = sum(first.shape[1] for first, _ in pairs)
    print(f"recogniser: {len(lines)} lines, {steps} steps, largest difference {max(differences):.2g}")
    assert all((first.argmax(axis=2) == second.argmax(axis=2)).all() for first, second in pairs)
    assert max(differences) < TOLERANCE


def test_the_texts_are_the_same(onnxruntime: Model, paddle: Model, lines: list[LineInput]) -> None:
    shapes = {Shape(1, *line.bucket) for line in lines}

    def read(model: Model) -> list[str]:
        recogniser = Recogniser(model, SHAPES)
        predictor: Predictor = build_predictor(model, Stage.RECOGNISER, shapes, Execution())
        return [recogniser.run(predictor, line.bucket, [line])[0].text for line in lines]

    assert read(paddle) == read(onnxruntime)
    assert any(read(onnxruntime))
