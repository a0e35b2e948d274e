"""What every predictor promises, whatever runs the model: the fake keeps the same promises as the real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.model_folders import write_folder
from worker.models import Model, Stage, available_models, build_predictor, load_model
from worker.predictors import Predictor, Shape, ShapeRefused, Tensor
from worker.predictors.fake import FakePredictor, character_scores

SHAPES = {
    Stage.DETECTOR: (Shape(1, 96, 128), Shape(2, 96, 128)),
    Stage.RECOGNISER: (Shape(1, 48, 64), Shape(3, 48, 64), Shape(1, 48, 96)),
    Stage.ORIENTATION: (Shape(1, 48, 192), Shape(2, 48, 192)),
}
TAIL: dict[Stage, Callable[[Shape, Model], tuple[int, ...]]] = {
    Stage.DETECTOR: lambda shape, model: (1, shape.height, shape.width),
    Stage.RECOGNISER: lambda shape, model: (shape.width // 8, len(model.characters)),
    Stage.ORIENTATION: lambda shape, model: (2,),
}


def noise(shape: Shape) -> Tensor:
    values = np.random.default_rng(7).uniform(-1, 1, (shape.batch, 3, shape.height, shape.width))
    return values.astype(np.float32)


@pytest.fixture(
    scope="module",
    params=["fake", "PP-OCRv6_small", "PP-OCRv4_mobile", "PP-OCRv6_small in a folder", "PP-OCRv4_mobile in a folder"],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    name, _, in_a_folder = request.param.partition(" ")
    if name != "fake" and name not in available_models():
        pytest.skip(f"{name} is not installed")
    model = load_model(name)
    return load_model(str(write_folder(tmp_path_factory.mktemp("models"), model))) if in_a_folder else model


@pytest.fixture(params=list(Stage))
def stage(request: pytest.FixtureRequest) -> Stage:
    chosen: Stage = request.param
    return chosen


@pytest.fixture
def predictor(model: Model, stage: Stage) -> Iterator[Predictor]:
    built = build_predictor(model, stage, SHAPES[stage], threads=1)
    yield built
    built.close()


def test_answers_every_configured_shape(predictor: Predictor, stage: Stage, model: Model) -> None:
    for shape in SHAPES[stage]:
        output = predictor.run(noise(shape))

        assert output.dtype == np.float32
        assert output.shape == (shape.batch, *TAIL[stage](shape, model))
        assert ((output >= 0) & (output <= 1.001)).all(), "every model ends in probabilities"


def test_refuses_any_other_shape(predictor: Predictor) -> None:
    with pytest.raises(ShapeRefused, match="7x3x32x32; the configured shapes are 1x3x"):
        predictor.run(noise(Shape(7, 32, 32)))


def test_an_item_gets_the_same_answer_alone_and_in_company(predictor: Predictor, stage: Stage) -> None:
    alone = min(SHAPES[stage])
    company = max(SHAPES[stage], key=lambda shape: shape.batch)
    batch = noise(company)

    answers = predictor.run(batch)

    for item, answer in zip(batch, answers, strict=True):
        expected = predictor.run(item[None])[0]
        assert np.allclose(answer, expected, atol=2e-3), f"batches of {alone.batch} and {company.batch} differ"


def test_predictors_of_two_threads_do_not_disturb_each_other(model: Model, stage: Stage) -> None:
    shape = SHAPES[stage][0]
    batches = [noise(shape), -noise(shape)]
    predictors = [build_predictor(model, stage, SHAPES[stage], threads=1) for _ in batches]
    expected = [predictor.run(batch) for predictor, batch in zip(predictors, batches, strict=True)]
    together = threading.Barrier(len(batches))

    def run(predictor: Predictor, batch: Tensor) -> list[Tensor]:
        together.wait()
        return [predictor.run(batch) for _ in range(5)]

    with ThreadPoolExecutor(len(batches)) as pool:
        answers = list(pool.map(run, predictors, batches))

    for several, one in zip(answers, expected, strict=True):
        assert all(np.allclose(answer, one, atol=1e-5) for answer in several)


def test_warms_up_and_says_what_it_is(predictor: Predictor, model: Model) -> None:
    predictor.warm_up()

    assert predictor.runtime.startswith(model.runtime)


def test_the_fake_lets_a_test_stand_in_the_way_of_a_batch() -> None:
    seen: list[tuple[int, ...]] = []

    def refuse_bright(batch: Tensor) -> None:
        seen.append(batch.shape)
        if batch.max() > 0.5:
            raise MemoryError("too bright")

    predictor = FakePredictor(character_scores, [Shape(1, 48, 64)], before=refuse_bright)

    with pytest.raises(MemoryError, match="too bright"):
        predictor.run(np.ones((1, 3, 48, 64), np.float32))
    predictor.run(np.zeros((1, 3, 48, 64), np.float32))

    assert seen == [(1, 3, 48, 64)] * 2
