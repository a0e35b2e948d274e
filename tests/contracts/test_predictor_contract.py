"""What every predictor promises, whatever runs the model: the fake keeps the same promises as the real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from tests.model_folders import write_folder
from worker.models import Model, available_models, load_model
from worker.predictors import Answers, Execution, Predictor, Shape, ShapeRefused, Stage
from worker.predictors.fake import FakePredictor, characters
from worker.runtimes import build_predictor, troubles
from worker.tensors import Batch, Cut, HostKernels, Kernels, Shrunk, Tensor

SHAPES = {
    Stage.DETECTOR: (Shape(1, 96, 128), Shape(2, 96, 128)),
    Stage.RECOGNISER: (Shape(1, 48, 64), Shape(3, 48, 64), Shape(1, 48, 96)),
    Stage.ORIENTATION: (Shape(1, 48, 192), Shape(2, 48, 192)),
}
TAIL: dict[Stage, Callable[[Shape], tuple[int, ...]]] = {
    Stage.DETECTOR: lambda shape: (shape.height, shape.width),
    Stage.RECOGNISER: lambda shape: (shape.width // 8, 2),
    Stage.ORIENTATION: lambda shape: (2,),
}


def noise(shape: Shape) -> Tensor:
    values = np.random.default_rng(7).uniform(-1, 1, (shape.batch, 3, shape.height, shape.width))
    return values.astype(np.float32)


IMPLEMENTATIONS = {
    "fake": ("fake", Execution()),
    "onnxruntime": ("PP-OCRv6_small", Execution()),
    "onnxruntime-cuda": ("PP-OCRv6_small", Execution("cuda")),
    "onnxruntime-cuda-fp16": ("PP-OCRv6_small", Execution("cuda", half=True)),
    "onnxruntime-cuda-host": ("PP-OCRv6_small", Execution("cuda", half=True, host_kernels=True)),
    "paddle": ("PP-OCRv4_mobile", Execution()),
    "paddle-cuda": ("PP-OCRv4_mobile", Execution("cuda")),
    "paddle-cuda-fp16": ("PP-OCRv4_mobile", Execution("cuda", half=True)),
    "paddle-tensorrt-fp16": ("PP-OCRv4_mobile", Execution("tensorrt", half=True)),
}
#: These are run out of a folder in PaddleX's format as well.
IN_A_FOLDER = ("onnxruntime", "paddle")


@pytest.fixture(scope="module", params=[*IMPLEMENTATIONS, *(f"{name} in a folder" for name in IN_A_FOLDER)])
def implementation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Execution]:
    chosen, _, in_a_folder = request.param.partition(" ")
    name, execution = IMPLEMENTATIONS[chosen]
    execution = replace(execution, engines=tmp_path_factory.mktemp("engines"))
    if name != "fake" and name not in available_models():
        pytest.skip(f"{name} is not installed")
    model = load_model(name)
    if trouble := "; ".join(troubles(execution.device, model)):
        pytest.skip(trouble)
    if in_a_folder:
        model = load_model(str(write_folder(tmp_path_factory.mktemp("models"), model)))
    return model, execution


@pytest.fixture(scope="module")
def model(implementation: tuple[Model, Execution]) -> Model:
    return implementation[0]


@pytest.fixture(scope="module")
def execution(implementation: tuple[Model, Execution]) -> Execution:
    return implementation[1]


def tolerance(stage: Stage, execution: Execution) -> float:
    """How far two answers to one item may lie apart: arithmetic differs with the size of a batch."""
    least, most = (1.0, 4.0) if stage is Stage.DETECTOR else (2e-3, 2e-2)
    return most if execution.half else least


@pytest.fixture(params=list(Stage))
def stage(request: pytest.FixtureRequest) -> Stage:
    chosen: Stage = request.param
    return chosen


@pytest.fixture
def predictor(model: Model, stage: Stage, execution: Execution) -> Iterator[Predictor]:
    built = build_predictor(model, stage, SHAPES[stage], execution)
    yield built
    built.close()


def test_answers_every_configured_shape(predictor: Predictor, stage: Stage, model: Model) -> None:
    for shape in SHAPES[stage]:
        output = predictor.run(noise(shape))

        assert output.dtype == (np.uint8 if stage is Stage.DETECTOR else np.float32)
        assert output.shape == (shape.batch, *TAIL[stage](shape))
        if stage is Stage.RECOGNISER:
            classes, output = output[..., 0], output[..., 1]
            assert (classes == classes.astype(int)).all()
            assert ((classes >= 0) & (classes < len(model.characters))).all()
        if stage is not Stage.DETECTOR:
            assert ((output >= 0) & (output <= 1.001)).all(), "every model ends in probabilities"


def test_refuses_any_other_shape(predictor: Predictor) -> None:
    with pytest.raises(ShapeRefused, match="7x3x32x32; the configured shapes are 1x3x"):
        predictor.run(noise(Shape(7, 32, 32)))


def test_an_item_gets_the_same_answer_alone_and_in_company(
    predictor: Predictor, stage: Stage, execution: Execution
) -> None:
    alone = min(SHAPES[stage])
    company = max(SHAPES[stage], key=lambda shape: shape.batch)
    batch = noise(company)

    answers = predictor.run(batch)

    for item, answer in zip(batch, answers, strict=True):
        expected = predictor.run(item[None])[0]
        apart = np.abs(answer.astype(float) - expected).max()
        assert apart <= tolerance(stage, execution), f"batches of {alone.batch} and {company.batch} differ"


def test_a_batch_is_read_where_the_kernels_made_it(predictor: Predictor, stage: Stage, execution: Execution) -> None:
    # Given a page in as many shades as it has pixels
    page = np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3).astype(np.uint8)
    shape = SHAPES[stage][1]
    warp = np.eye(3)

    def made(kernels: Kernels) -> Batch:
        item = kernels.load(page)
        if stage is Stage.DETECTOR:
            return kernels.shrink([Shrunk(item, 64, 96)], shape.batch, (shape.height, shape.width))
        return kernels.cut([Cut(item, warp, 60)], shape.batch, (shape.height, shape.width))

    on_host = predictor.run(made(HostKernels()))
    beside = predictor.run(made(predictor.kernels))

    assert np.abs(on_host.astype(float) - beside).max() <= tolerance(stage, execution)


def test_predictors_of_two_threads_do_not_disturb_each_other(model: Model, stage: Stage, execution: Execution) -> None:
    shape = SHAPES[stage][0]
    batches = [noise(shape), -noise(shape)]
    predictors = [build_predictor(model, stage, SHAPES[stage], execution) for _ in batches]
    expected = [predictor.run(batch) for predictor, batch in zip(predictors, batches, strict=True)]
    together = threading.Barrier(len(batches))

    def run(predictor: Predictor, batch: Tensor) -> list[Answers]:
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

    predictor = FakePredictor(characters, [Shape(1, 48, 64)], before=refuse_bright)

    with pytest.raises(MemoryError, match="too bright"):
        predictor.run(np.ones((1, 3, 48, 64), np.float32))
    predictor.run(np.zeros((1, 3, 48, 64), np.float32))

    assert seen == [(1, 3, 48, 64)] * 2
