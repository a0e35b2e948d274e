"""Paddle Inference on the CPU with oneDNN. The only module that imports `paddle`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worker.predictors import Answers, Shape, Stage, check_shape
from worker.predictors.endings import ENDINGS
from worker.tensors import Batch, HostKernels, Kernels, Tensor

#: Shapes whose oneDNN primitives are kept. Unlimited, the cache leaks under changing shapes; zero crashes. With 64, a
#: stream of 48 shapes ran a quarter faster than with 10 and took 480 MB more.
ONEDNN_CACHE_SHAPES = 10


def installed() -> bool:
    """Whether Paddle can be imported, told without importing it."""
    return find_spec("paddle") is not None


def _paddle() -> ModuleType:
    with warnings.catch_warnings():
        # Paddle looks for a C++ compiler cache that only builders of extensions need, and warns of its absence.
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        import paddle
        import paddle.inference
    return paddle


def version() -> str:
    """The runtime and its version, such as `paddle 3.2.2`."""
    return f"paddle {_paddle().__version__}"


def _create(folder: Path, threads: int) -> Any:
    inference = _paddle().inference
    config = inference.Config(str(folder / "inference.pdmodel"), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(ONEDNN_CACHE_SHAPES)
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    return inference.create_predictor(config)


class PaddlePredictor:
    """Runs one folder with `inference.pdmodel` and `inference.pdiparams`; see `Predictor`."""

    kernels: Kernels = HostKernels()

    def __init__(self, folder: Path, stage: Stage, shapes: Iterable[Shape], threads: int) -> None:
        self._ending = ENDINGS[stage]
        self.shapes = frozenset(shapes)
        self.runtime = f"{version()} cpu"
        self._predictor = _create(folder, threads)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def run(self, batch: Batch) -> Answers:
        check_shape(batch, self.shapes)
        try:
            self._input.copy_from_cpu(batch)
            self._predictor.run()
            output: Tensor = self._output.copy_to_cpu()
        except RuntimeError as error:
            # Paddle names its class only in the text.
            if "ResourceExhausted" in str(error) or "could not create a memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return self._ending(output)

    def warm_up(self) -> None:
        """Run the smallest shape. More would be forgotten again: oneDNN keeps the primitives of a few shapes only."""
        if self.shapes:
            smallest = min(self.shapes, key=lambda shape: shape.pixels)
            self.run(np.zeros((smallest.batch, 3, smallest.height, smallest.width), np.float32))

    def close(self) -> None:
        self._input = self._output = self._predictor = None
