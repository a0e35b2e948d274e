"""How Paddle is configured, read back from its own `Config`.

A build of Paddle for the CPU parses the arguments of every call and refuses TensorRT only afterwards, so that names and
types are checked here although nothing runs on a card.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model_folders import FOLDERS, write_folder
from worker.models import available_models, load_model
from worker.predictors import Execution, Shape, Stage
from worker.predictors.engine_files import engine_folder
from worker.predictors.paddle import (
    MOST_ONEDNN_SHAPES,
    PaddlePredictor,
    configure,
    dynamic_shapes,
    input_name,
    onednn_capacity,
    tensorrt_arguments,
    troubles,
    use_card,
    version,
)

pytestmark = pytest.mark.skipif("PP-OCRv4_mobile" not in available_models(), reason="no Paddle, or no models for it")

SHAPES = frozenset({Shape(1, 48, 320), Shape(8, 48, 320), Shape(1, 48, 128), Shape(8, 48, 960)})


@pytest.fixture(scope="module")
def paddle() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        import_module("paddle.inference")
    return import_module("paddle")


@pytest.fixture(scope="module")
def inference(paddle: Any) -> Any:
    return paddle.inference


@pytest.fixture(scope="module")
def without_cuda(paddle: Any) -> None:
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle has CUDA and does not refuse it")


@pytest.fixture
def recogniser() -> Path:
    return load_model("PP-OCRv4_mobile").paths[Stage.RECOGNISER]


@pytest.fixture(scope="module")
def newer_format(tmp_path_factory: pytest.TempPathFactory, paddle: Any) -> Path:
    """A small network as `inference.json`, the format of Paddle 3."""
    folder = tmp_path_factory.mktemp("newer")
    paddle.seed(7)
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3, padding=1), paddle.nn.Softmax(axis=1))
    network.eval()
    image = paddle.static.InputSpec([None, 3, None, None], "float32", name="image")
    with warnings.catch_warnings():
        # Paddle's own code, on its way to the file.
        warnings.simplefilter("ignore")
        paddle.jit.save(network, str(folder / "inference"), input_spec=[image])
    assert (folder / "inference.json").is_file()
    return folder


def table(config: Any) -> dict[str, str]:
    """What `Config.summary` prints."""
    rows = [line.strip("| ").split("|") for line in config.summary().splitlines() if line.startswith("|")]
    return {name.strip(): value.strip() for name, value in rows}


def test_on_a_cpu_onednn_keeps_the_listed_shapes(recogniser: Path) -> None:
    config = configure(recogniser, Execution(threads=3), SHAPES)

    said = table(config)
    assert not config.use_gpu()
    assert config.mkldnn_enabled()
    assert config.ir_optim()
    assert not config.new_ir_enabled()
    assert config.cpu_math_library_num_threads() == 3
    assert said["mkldnn_cache_capacity"] == "4"
    assert (said["memory_optim"], said["enable_profile"]) == ("true", "false")
    assert table(configure(recogniser, Execution(profile=True), SHAPES))["enable_profile"] == "true"


def test_onednns_cache_is_neither_unlimited_nor_empty() -> None:
    many = [Shape(1, 48, width) for width in range(32, 3232, 32)]

    assert onednn_capacity(many) == MOST_ONEDNN_SHAPES
    assert onednn_capacity([]) == 1


def test_warms_the_largest_shape_first_and_all_that_onednn_keeps(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, ...]] = []
    monkeypatch.setattr(PaddlePredictor, "run", lambda self, batch: ran.append(batch.shape))
    many = [Shape(1, 48, width) for width in range(32, 3232, 32)]

    PaddlePredictor(recogniser, Stage.RECOGNISER, SHAPES, Execution()).warm_up()
    PaddlePredictor(recogniser, Stage.RECOGNISER, many, Execution()).warm_up()

    assert ran == [(8, 3, 48, 960), (8, 3, 48, 320), (1, 3, 48, 320), (1, 3, 48, 128), (1, 3, 48, 3200)]


def test_paddle_3s_format_runs_and_agrees_with_the_network(newer_format: Path, paddle: Any) -> None:
    shape = Shape(2, 32, 64)
    batch = np.random.default_rng(7).uniform(-1, 1, (2, 3, 32, 64)).astype(np.float32)
    predictor = PaddlePredictor(newer_format, Stage.ORIENTATION, [shape], Execution())
    network = paddle.jit.load(str(newer_format / "inference"))
    network.eval()

    predictor.warm_up()
    output = predictor.run(batch)

    assert configure(newer_format, Execution(), SHAPES).new_ir_enabled()
    assert np.allclose(output, network(paddle.to_tensor(batch)).numpy(), atol=1e-5)


def test_a_profile_is_printed_when_the_predictor_is_closed(
    recogniser: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Paddle leaves a `profile.log` in the current folder
    shape = Shape(1, 48, 128)
    predictor = PaddlePredictor(recogniser, Stage.RECOGNISER, [shape], Execution(profile=True))
    predictor.warm_up()
    predictor.close()

    assert "conv2d" in capfd.readouterr().out


def test_the_arguments_for_a_card_are_paddles(inference: Any, recogniser: Path) -> None:
    config = inference.Config(str(recogniser / "inference.pdmodel"), str(recogniser / "inference.pdiparams"))

    use_card(config, Execution("cuda", half=True))

    assert config.memory_pool_init_size_mb() == 100
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.enable_use_gpu(memory_pool_mb=100)


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("half", [False, True])
def test_a_cpu_build_refuses_tensorrt_only_after_it_took_the_arguments(inference: Any, half: bool) -> None:
    config = inference.Config()
    arguments = tensorrt_arguments(Execution("tensorrt", half=half), SHAPES)

    assert arguments["max_batch_size"] == 8
    assert arguments["precision_mode"].name == ("Half" if half else "Float32")
    assert arguments["use_static"]
    assert not arguments["use_calib_mode"]
    with pytest.raises(RuntimeError, match="please compile with TENSORRT first"):
        config.enable_tensorrt_engine(**arguments)
    for name in arguments:
        renamed = {(f"{other}_" if other == name else other): value for other, value in arguments.items()}
        with pytest.raises(TypeError, match="incompatible function arguments"):
            config.enable_tensorrt_engine(**renamed)


def test_the_ranges_of_shapes_are_those_of_the_list(inference: Any, recogniser: Path) -> None:
    config = inference.Config()
    ranges = dynamic_shapes(input_name(recogniser), SHAPES)

    assert ranges == {
        "min_input_shape": {"x": [1, 3, 48, 128]},
        "max_input_shape": {"x": [8, 3, 48, 960]},
        "optim_input_shape": {"x": [8, 3, 48, 320]},
    }
    assert not config.tensorrt_dynamic_shape_enabled()
    config.set_trt_dynamic_shape_info(**ranges)
    assert config.tensorrt_dynamic_shape_enabled()
    assert not config.trt_allow_build_at_runtime()
    for name in ranges:
        renamed = {(f"{other}_" if other == name else other): value for other, value in ranges.items()}
        with pytest.raises(TypeError, match="incompatible function arguments"):
            config.set_trt_dynamic_shape_info(**renamed)


@pytest.mark.usefixtures("without_cuda")
def test_what_a_cpu_build_lacks_is_named(recogniser: Path, newer_format: Path) -> None:
    assert [*troubles("cuda", recogniser)] == [f"{version()} is built without CUDA (paddlepaddle-gpu is built with it)"]
    assert len([*troubles("tensorrt", recogniser)]) == 1
    assert "this one is inference.json" in next(troubles("tensorrt", newer_format))


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given | {"precision": "fp16"},
        lambda given: given | {"shapes": SHAPES - {Shape(1, 48, 320)}},
        lambda given: given | {"card": "NVIDIA L4"},
        lambda given: given | {"runtime": "paddle 3.2.2 tensorrt 8.6.1"},
        lambda given: given | {"model": given["model"].with_name("det")},
    ],
    ids=["precision", "shapes", "card", "runtime", "model"],
)
def test_engines_are_kept_apart(tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    models = write_folder(tmp_path / "models", load_model("PP-OCRv4_mobile"))
    given: dict[str, Any] = {
        "model": models / FOLDERS[Stage.RECOGNISER],
        "precision": "fp32",
        "shapes": SHAPES,
        "card": "NVIDIA H200",
        "runtime": "paddle 3.2.2 tensorrt 10.5.0",
    }

    first = engine_folder(tmp_path, **given)

    assert first.is_dir()
    assert engine_folder(tmp_path, **given) == first
    assert engine_folder(tmp_path, **change(given)) != first
