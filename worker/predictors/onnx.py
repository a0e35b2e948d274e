"""ONNX Runtime on the CPU. The only module that imports `onnxruntime`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from worker.predictors import Shape, ShapeRefused, Tensor

_sessions: WeakValueDictionary[tuple[Path, int], Any] = WeakValueDictionary()
_sessions_lock = threading.Lock()


def installed() -> bool:
    """Whether ONNX Runtime can be imported, told without importing it."""
    return find_spec("onnxruntime") is not None


def version() -> str:
    """The runtime, its version and its device, such as `onnxruntime 1.31.1 cpu`."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} cpu"


def read_characters(path: Path) -> tuple[str, ...]:
    """The characters that a recogniser's file names in its metadata, without the blank and the space."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    listed: str = session.get_modelmeta().custom_metadata_map["character"]
    return tuple(listed.removesuffix("\n").split("\n"))


def _session(path: Path, threads: int) -> Any:
    """One session per file, shared by every predictor of it: a session's `run` may be called by many threads."""
    import onnxruntime

    with _sessions_lock:
        session = _sessions.get((path, threads))
        if session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            _sessions[path, threads] = session
        return session


def default_run(path: Path, *, on_card: bool) -> Callable[[Tensor], Tensor]:
    """The file in a session of the runtime's own default options, which takes any shape: what `ocrpool bench` starts
    from."""
    import onnxruntime

    providers = ["CPUExecutionProvider"] if not on_card else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), providers=providers)
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Tensor:
        output: Tensor = session.run(None, {name: batch})[0]
        return output

    return run


class OnnxPredictor:
    """Runs one ONNX file; see `Predictor`."""

    def __init__(self, path: Path, shapes: Iterable[Shape], threads: int) -> None:
        self.shapes = frozenset(shapes)
        self.runtime = version()
        self._session = _session(path, threads)
        self._input: str = self._session.get_inputs()[0].name
        self._output: str = self._session.get_outputs()[0].name

    def run(self, batch: Tensor) -> Tensor:
        size, _, height, width = batch.shape
        if Shape(size, height, width) not in self.shapes:
            raise ShapeRefused(batch.shape, self.shapes)
        try:
            outputs: list[Tensor] = self._session.run([self._output], {self._input: batch})
        except RuntimeError as error:
            # The runtime has no class of its own for this.
            if "allocate" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return outputs[0]

    def warm_up(self) -> None:
        """Run the smallest shape: on a CPU this runtime plans nothing per shape, and one run loads code and weights."""
        if self.shapes:
            smallest = min(self.shapes, key=lambda shape: shape.batch * shape.height * shape.width)
            self.run(np.zeros((smallest.batch, 3, smallest.height, smallest.width), np.float32))

    def close(self) -> None:
        self._session = None
