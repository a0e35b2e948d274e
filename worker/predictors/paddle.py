"""Paddle Inference on the CPU with oneDNN, on a card, or on a card with TensorRT. The only module that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from worker.kernels import card_errors
from worker.predictors import Answers, Device, Execution, Shape, Stage, check_shape
from worker.predictors.endings import ENDINGS
from worker.predictors.engine_files import building, engine_folder
from worker.tensors import Batch, HostKernels, Kernels, Tensor

#: Most shapes whose oneDNN primitives are kept.
MOST_ONEDNN_SHAPES = 24
#: Device memory that Paddle takes at the start; its pool grows beyond it as needed.
_MEMORY_POOL_MB = 100
#: Device memory that TensorRT may use for one layer while it tries out its kernels.
_WORKSPACE_BYTES = 1 << 30
#: Smaller parts of a graph stay in Paddle: entering an engine costs more than it saves.
_SMALLEST_SUBGRAPH = 3


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


def troubles(device: Device, folder: Path) -> Iterator[str]:
    """What keeps this build of Paddle from running a model on a card, one phrase each."""
    paddle = _paddle()
    if device == "tensorrt" and program(folder).suffix == ".json":
        yield "Paddle gives TensorRT models of the format inference.pdmodel, and this one is inference.json"
    if not paddle.is_compiled_with_cuda():
        yield f"{version()} is built without CUDA (paddlepaddle-gpu is built with it)"
    elif not paddle.device.cuda.device_count():
        yield "Paddle sees no card"
    elif device == "tensorrt" and not any(paddle.inference.get_trt_compile_version()):
        yield f"{version()} is built without TensorRT"


def program(folder: Path) -> Path:
    """The model's graph, in Paddle 3's format or in the one before; of both the newer, as PaddleX has it."""
    newer = folder / "inference.json"
    return newer if newer.is_file() else folder / "inference.pdmodel"


def configure(folder: Path, execution: Execution, shapes: frozenset[Shape]) -> Any:
    """Paddle's `Config` of one model. A build without CUDA or TensorRT refuses their options: see `troubles`."""
    inference = _paddle().inference
    graph = program(folder)
    config = inference.Config(str(graph), str(folder / "inference.pdiparams"))
    config.disable_glog_info()
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    if graph.suffix == ".json":
        # Else the passes of the former format are looked up for the newer one, and the planning of memory fails.
        config.enable_new_ir(True)
        config.enable_new_executor()
    if execution.profile:
        config.enable_profile()
    if execution.device == "cpu":
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(execution.threads)
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(onednn_capacity(shapes))
        return config
    use_card(config, execution)
    if execution.device == "tensorrt":
        config.enable_tensorrt_engine(**tensorrt_arguments(execution, shapes))
        config.set_trt_dynamic_shape_info(**dynamic_shapes(input_name(folder), shapes))
        config.set_optim_cache_dir(str(_engines(folder, execution, shapes)))
    return config


def onednn_capacity(shapes: Iterable[Shape]) -> int:
    """Shapes whose oneDNN primitives are kept: all of the list's, within bounds.

    Unlimited, the cache leaks; zero crashes. On a stream of 48 shapes, room for 64 was a few per cent faster than for
    10, and took 110 MB more.
    """
    return min(max(len(frozenset(shapes)), 1), MOST_ONEDNN_SHAPES)


def use_card(config: Any, execution: Execution) -> None:
    """Compute on the only card that the launcher shows; inputs and outputs stay float32.

    With TensorRT, half precision is an argument of its engines, and Paddle's own share of the graph stays float32.
    """
    precisions = _paddle().inference.PrecisionType
    half = execution.half and execution.device == "cuda"
    config.exp_disable_mixed_precision_ops({"feed", "fetch"})
    config.enable_use_gpu(
        memory_pool_init_size_mb=_MEMORY_POOL_MB,
        device_id=0,
        precision_mode=precisions.Half if half else precisions.Float32,
    )


def tensorrt_arguments(execution: Execution, shapes: Iterable[Shape]) -> dict[str, Any]:
    """The arguments of `Config.enable_tensorrt_engine`."""
    precisions = _paddle().inference.PrecisionType
    return {
        "workspace_size": _WORKSPACE_BYTES,
        "max_batch_size": max(shape.batch for shape in shapes),
        "min_subgraph_size": _SMALLEST_SUBGRAPH,
        "precision_mode": precisions.Half if execution.half else precisions.Float32,
        "use_static": True,
        "use_calib_mode": False,
    }


def dynamic_shapes(name: str, shapes: Iterable[Shape]) -> dict[str, Mapping[str, list[int]]]:
    """The arguments of `Config.set_trt_dynamic_shape_info`: the range that the listed shapes span.

    Kernels are chosen for the largest batch at the middle height and width, where a busy pool spends its time. No shape
    but the listed ones is ever run, so that no engine is built anew.
    """
    sides = [(shape.batch, 3, shape.height, shape.width) for shape in shapes]
    ascending = [sorted(side) for side in zip(*sides, strict=True)]
    least, middle, most = ([side[at] for side in ascending] for at in (0, len(sides) // 2, -1))
    return {
        "min_input_shape": {name: least},
        "max_input_shape": {name: most},
        "optim_input_shape": {name: [most[0], *middle[1:]]},
    }


def input_name(folder: Path) -> str:
    """The name of the model's one input, for which TensorRT's ranges are given."""
    inference = _paddle().inference
    config = inference.Config(str(program(folder)), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.switch_ir_optim(False)
    name: str = inference.create_predictor(config).get_input_names()[0]
    return name


def _engines(folder: Path, execution: Execution, shapes: frozenset[Shape]) -> Path:
    paddle = _paddle()
    tensorrt = ".".join(str(part) for part in paddle.inference.get_trt_compile_version())
    return engine_folder(
        execution.engines,
        folder,
        precision="fp16" if execution.half else "fp32",
        shapes=shapes,
        card=paddle.device.cuda.get_device_name(0),
        runtime=f"{version()} tensorrt {tensorrt}",
    )


def default_run(folder: Path, *, on_card: bool) -> Callable[[Tensor], Tensor]:
    """The folder in a predictor of Paddle's own default options, which takes any shape: what `ocrpool bench` starts
    from."""
    inference = _paddle().inference
    config = inference.Config(str(program(folder)), str(folder / "inference.pdiparams"))
    config.disable_glog_info()
    if on_card:
        config.enable_use_gpu(_MEMORY_POOL_MB, 0)
    predictor = inference.create_predictor(config)
    entry = predictor.get_input_handle(predictor.get_input_names()[0])
    output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(batch: Tensor) -> Tensor:
        entry.copy_from_cpu(batch)
        predictor.run()
        answer: Tensor = output.copy_to_cpu()
        return answer

    return run


class PaddlePredictor:
    """Runs one folder with `inference.json` or `inference.pdmodel`, and `inference.pdiparams`; see `Predictor`."""

    kernels: Kernels = HostKernels()

    def __init__(self, folder: Path, stage: Stage, shapes: Iterable[Shape], execution: Execution) -> None:
        self._ending = ENDINGS[stage]
        self._on_card = execution.device != "cpu"
        self.shapes = frozenset(shapes)
        self.runtime = f"{version()} {execution}"
        config = configure(folder, execution, self.shapes)
        on_tensorrt = execution.device == "tensorrt"
        with building(_engines(folder, execution, self.shapes)) if on_tensorrt else nullcontext():
            self._predictor = _paddle().inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def run(self, batch: Batch) -> Answers:
        check_shape(batch, self.shapes)
        with card_errors():
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
        """Run every shape, or the largest where oneDNN would forget most of them again.

        The largest comes first: the smaller ones then find room in the memory that it took, which halves the total.
        """
        descending = sorted(self.shapes, key=lambda shape: shape.pixels, reverse=True)
        keeps_all = self._on_card or len(descending) <= onednn_capacity(descending)
        for shape in descending if keeps_all else descending[:1]:
            self.run(np.zeros((shape.batch, 3, shape.height, shape.width), np.float32))

    def close(self) -> None:
        self._input = self._output = self._predictor = None
