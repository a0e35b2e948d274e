from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

from worker.predictors import Shape, Stage, graph
from worker.predictors.onnx import cuda_options, tensorrt_options


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
