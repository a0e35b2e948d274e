from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

from tests.worker.card_stand_in import stand_in
from tests.worker.compiled_kernels import COMPILER
from worker.models import available_models, load_model
from worker.predictors import Execution, Shape, Stage, graph
from worker.predictors.onnx import TENSORRT, OnnxCardPredictor, cuda_options, tensorrt_options


def recogniser(last: str) -> onnx.ModelProto:
    """A model of one line's scores, which ends in the operator `last`."""
    axes = ["size", "steps", "classes"]
    entry, output = (make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("x", "y"))
    return make_model(make_graph([make_node(last, ["x"], ["y"])], "recogniser", [entry], [output]))


def test_an_engine_of_tensorrt_is_built_for_one_shape() -> None:
    options = tensorrt_options("x", Shape(8, 48, 320), Path("/engines"), 7, half=True)

    assert {options[f"trt_profile_{bound}_shapes"] for bound in ("min", "opt", "max")} == {"x:8x3x48x320"}
    assert (options["trt_engine_cache_path"], options["trt_fp16_enable"]) == ("/engines", "1")


def test_both_work_on_the_predictors_stream_and_record_it() -> None:
    cuda, tensorrt = cuda_options(7), tensorrt_options("x", Shape(8, 48, 320), Path("/engines"), 7, half=False)

    assert cuda["user_compute_stream"] == tensorrt["user_compute_stream"] == "7"
    assert cuda["enable_cuda_graph"] == tensorrt["trt_cuda_graph_enable"] == "1"


def test_a_recogniser_loses_its_softmax_and_nothing_else() -> None:
    model = recogniser("Softmax")
    graph.end_in_logits(model, half=False)
    assert [node.op_type for node in model.graph.node] == ["Cast"]
    assert [output.name for output in model.graph.output] == [graph.ANSWERS]

    with pytest.raises(ValueError, match="ends in Relu, not in a softmax"):
        graph.end_in_logits(recogniser("Relu"), half=False)


def test_a_model_for_one_shape_has_no_other() -> None:
    model = recogniser("Softmax")
    entry = make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    model.graph.input[0].CopyFrom(entry)
    graph.end_in_answers(model, Stage.ORIENTATION)

    (fixed,) = onnx.load_model_from_string(graph.for_shape(model, Shape(2, 48, 192))).graph.input

    assert [side.dim_value for side in fixed.type.tensor_type.shape.dim] == [2, 3, 48, 192]


class Sessions:
    """ONNX Runtime's sessions on a machine where TensorRT runs a part of each graph; they compute on the CPU."""

    def __init__(self) -> None:
        self.asked: list[dict[str, dict[str, str]]] = []
        self._make = onnxruntime.InferenceSession

    def __call__(self, model: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        self.asked.append(dict(providers))
        if self.asked[-1].get(TENSORRT, {}).get("trt_cuda_graph_enable") == "1":
            raise RuntimeError("This session cannot use the CUDA Graph feature as requested by the user as all [...]")
        session = self._make(model, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: [name for name, _ in providers]
        return session


@pytest.mark.skipif(COMPILER is None or "PP-OCRv6_small" not in available_models(), reason="g++ or a model is missing")
def test_cuda_runs_what_tensorrt_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given a card whose TensorRT does not know every operator of the model
    stand_in(monkeypatch, tmp_path)
    monkeypatch.setattr("worker.kernels.card_name", lambda: "NVIDIA H100")
    monkeypatch.setattr("worker.predictors.onnx.CUDA", "CUDAExecutionProvider")
    monkeypatch.setattr("worker.predictors.onnx.cuda_options", cuda_options)
    sessions = Sessions()
    monkeypatch.setattr("onnxruntime.InferenceSession", sessions)
    path = load_model("PP-OCRv6_small").paths[Stage.ORIENTATION]
    execution = Execution("tensorrt", engines=tmp_path / "engines")
    predictor = OnnxCardPredictor(path, Stage.ORIENTATION, [Shape(2, 48, 192)], execution)

    # When it is warmed
    predictor.warm_up()

    # Then it runs, unrecorded, on both of them and on one stream, and its engines are kept
    recorded, unrecorded = sessions.asked
    for asked in (recorded, unrecorded):
        assert list(asked) == [TENSORRT, "CUDAExecutionProvider"]
        assert asked[TENSORRT]["user_compute_stream"] == asked["CUDAExecutionProvider"]["user_compute_stream"]
        assert asked["CUDAExecutionProvider"]["enable_cuda_graph"] == "0"
    assert unrecorded[TENSORRT]["trt_cuda_graph_enable"] == "0"
    assert predictor.run(np.zeros((2, 3, 48, 192), np.float32)).shape == (2, 2)
    assert [path.name for path in (tmp_path / "engines").rglob("whole")] == ["whole"]
