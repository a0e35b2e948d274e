"""ONNX graphs that end in a stage's answers instead of a model's probabilities. The only module that imports `onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.predictors import Shape, Stage

#: Name of an edited graph's output.
ANSWERS = "answers"


def load(path: Path) -> Any:
    """The model in a file."""
    import onnx

    return onnx.load(path)


def read_characters(path: Path) -> tuple[str, ...]:
    """The characters that a recogniser's file names in its metadata, without the blank and the space."""
    metadata = {entry.key: entry.value for entry in load(path).metadata_props}
    return tuple(metadata["character"].removesuffix("\n").split("\n"))


def end_in_answers(model: Any, stage: Stage) -> None:
    """Put nodes behind the model that make the stage's answers; a detector's keep their channel axis."""
    from onnx import TensorProto
    from onnx.helper import make_node, make_tensor

    def constant(name: str, value: float) -> Any:
        return make_node("Constant", [], [name], value=make_tensor(name, TensorProto.FLOAT, (), [value]))

    nodes = [make_node("Cast", [model.graph.output[0].name], ["single"], to=TensorProto.FLOAT)]
    kind = TensorProto.FLOAT
    if stage is Stage.DETECTOR:
        kind = TensorProto.UINT8
        nodes += [
            constant("white", 255),
            constant("half", 0.5),
            make_node("Mul", ["single", "white"], ["scaled"]),
            make_node("Add", ["scaled", "half"], ["rounded"]),
            make_node("Cast", ["rounded"], [ANSWERS], to=kind),
        ]
    elif stage is Stage.RECOGNISER:
        nodes += [
            make_node("ArgMax", ["single"], ["best"], axis=2, keepdims=1),
            make_node("Cast", ["best"], ["class"], to=kind),
            make_node("ReduceMax", ["single"], ["probability"], axes=[2], keepdims=1),
            make_node("Concat", ["class", "probability"], [ANSWERS], axis=2),
        ]
    else:
        nodes.append(make_node("Identity", ["single"], [ANSWERS]))
    model.graph.node.extend(nodes)
    _set_output(model, kind)


def end_in_logits(model: Any, *, half: bool) -> None:
    """Take a recogniser's last softmax away: it answers `float[N, T, C]`, for a kernel that reads it on the card.

    Raises:
        ValueError: the model does not end in a softmax.
    """
    from onnx import TensorProto
    from onnx.helper import make_node

    producers = {name: node for node in model.graph.node for name in node.output}
    last = producers[model.graph.output[0].name]
    dropped = [last]
    while last.op_type in ("Cast", "Identity"):
        last = producers[last.input[0]]
        dropped.append(last)
    if last.op_type != "Softmax":
        raise ValueError(f"the recogniser ends in {last.op_type}, not in a softmax")
    for node in dropped:
        model.graph.node.remove(node)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    model.graph.node.append(make_node("Cast", [last.input[0]], [ANSWERS], to=kind))
    _set_output(model, kind)


def for_shape(model: Any, shape: Shape) -> bytes:
    """The model as a file's bytes, for one input shape: what follows from it is then computed once, not in each run."""
    (entry,) = model.graph.input
    sides = (shape.batch, 3, shape.height, shape.width)
    for dimension, side in zip(entry.type.tensor_type.shape.dim, sides, strict=True):
        dimension.dim_value = side
    del model.graph.value_info[:]
    return serialised(model)


def serialised(model: Any) -> bytes:
    """The model as a file's bytes."""
    content: bytes = model.SerializeToString()
    return content


def _set_output(model: Any, kind: int) -> None:
    import onnx

    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(ANSWERS, kind, None))
