"""Paddle Inference on the CPU with oneDNN, on a card, or on a card with TensorRT. The only module that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from producer.errors import Unavailable
from worker.predictors import Shape, ShapeRefused, Tensor
from worker.predictors.engine_files import engine_folder

Device = Literal["cpu", "cuda", "tensorrt"]

#: Device memory that Paddle takes at the start; its pool grows beyond it as needed.
_MEMORY_POOL_MB = 100
#: Device memory that TensorRT may use for one layer while it tries out its kernels.
_WORKSPACE_BYTES = 1 << 30
#: Each kept shape of a recogniser takes about 10 MB.
MOST_ONEDNN_SHAPES = 48
#: Smaller parts of a graph stay in Paddle: entering an engine costs more than it saves.
_SMALLEST_SUBGRAPH = 3


@dataclass(frozen=True)
class PaddleOptions:
    """How Paddle runs a model."""

    device: Device = "cpu"
    #: `fp16` needs a card: weights and activations in half precision, inputs and outputs in float32 all the same.
    precision: Literal["fp32", "fp16"] = "fp32"
    #: CPU threads inside one call.
    threads: int = 1
    #: The card's number among those that this process sees.
    card: int = 0
    #: Folder below which TensorRT's engines are kept; none: they are built at each start.
    engines: Path | None = None
    #: Print the time of every operator when the predictor is closed.
    profile: bool = False

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError("half precision needs a card: on a CPU Paddle would convert back and forth")


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


def version(device: Device = "cpu") -> str:
    """The runtime, its version and its device, such as `paddle 3.2.2 cpu` or `paddle 3.2.2 tensorrt 10.5.0`."""
    paddle = _paddle()
    of_device = ""
    if device == "tensorrt":
        of_device = " " + ".".join(str(part) for part in paddle.inference.get_trt_compile_version())
    elif device == "cuda":
        of_device = f" {paddle.version.cuda()}"
    return f"paddle {paddle.__version__} {device}{of_device}"


def missing(device: Device, graph: Path) -> str:
    """What keeps the installed Paddle from running a model on a device, or nothing."""
    paddle = _paddle()
    if device == "tensorrt" and graph.suffix == ".json":
        return (
            "Paddle gives models to TensorRT as inference.pdmodel, and this one is inference.json; "
            "use the device cuda, or the model as ONNX with onnxruntime"
        )
    if device != "cpu" and not paddle.is_compiled_with_cuda():
        return f"paddle {paddle.__version__} is built without CUDA; paddlepaddle-gpu is needed"
    if device == "tensorrt" and not any(paddle.inference.get_trt_compile_version()):
        return f"paddle {paddle.__version__} is built without TensorRT"
    if device != "cpu" and not paddle.device.cuda.device_count():
        return "Paddle sees no card"
    return ""


def program(folder: Path) -> Path:
    """The model's graph, in Paddle 3's format or in the one before; of both, the newer, as PaddleX has it."""
    newer = folder / "inference.json"
    return newer if newer.is_file() else folder / "inference.pdmodel"


def tensorrt_arguments(options: PaddleOptions, shapes: Iterable[Shape]) -> dict[str, Any]:
    """The arguments of `Config.enable_tensorrt_engine`."""
    precisions = _paddle().inference.PrecisionType
    return {
        "workspace_size": _WORKSPACE_BYTES,
        "max_batch_size": max(shape.batch for shape in shapes),
        "min_subgraph_size": _SMALLEST_SUBGRAPH,
        "precision_mode": precisions.Half if options.precision == "fp16" else precisions.Float32,
        "use_static": options.engines is not None,
        "use_calib_mode": False,
    }


def dynamic_shapes(name: str, shapes: Iterable[Shape]) -> dict[str, Mapping[str, list[int]]]:
    """The arguments of `Config.set_trt_dynamic_shape_info`: the range of the listed shapes, side by side.

    The kernels are chosen for the largest batch at the middle height and width, where a busy pool spends its time.
    """
    sides = [(shape.batch, 3, shape.height, shape.width) for shape in shapes]
    ascending = [sorted(side) for side in zip(*sides, strict=True)]
    least, middle, most = ([side[at] for side in ascending] for at in (0, len(sides) // 2, -1))
    best = [most[0], *middle[1:]]
    return {
        "min_input_shape": {name: least},
        "max_input_shape": {name: most},
        "optim_input_shape": {name: best},
    }


def configure(folder: Path, options: PaddleOptions, shapes: frozenset[Shape]) -> Any:
    """Paddle's `Config` of one model.

    Raises:
        Unavailable: this machine's Paddle cannot run the model on that device.
    """
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
    if options.profile:
        config.enable_profile()
    if options.device == "cpu":
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(options.threads)
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(onednn_capacity(shapes))
        return config
    if lacking := missing(options.device, graph):
        raise Unavailable(f"{folder.name} cannot run on {options.device}: {lacking}.")
    use_gpu(config, options)
    if options.device == "tensorrt":
        _use_tensorrt(config, folder, options, shapes)
    return config


def use_gpu(config: Any, options: PaddleOptions) -> None:
    """Run on a card; in half precision if TensorRT, which has a precision of its own, does not follow."""
    precisions = _paddle().inference.PrecisionType
    half = options.precision == "fp16" and options.device == "cuda"
    config.exp_disable_mixed_precision_ops({"feed", "fetch"})
    config.enable_use_gpu(
        memory_pool_init_size_mb=_MEMORY_POOL_MB,
        device_id=options.card,
        precision_mode=precisions.Half if half else precisions.Float32,
    )


def _use_tensorrt(config: Any, folder: Path, options: PaddleOptions, shapes: frozenset[Shape]) -> None:
    config.enable_tensorrt_engine(**tensorrt_arguments(options, shapes))
    config.set_trt_dynamic_shape_info(**dynamic_shapes(input_name(folder), shapes))
    if options.engines is not None:
        kept = engine_folder(
            options.engines,
            folder,
            precision=options.precision,
            shapes=shapes,
            card=_paddle().device.cuda.get_device_name(options.card),
            runtime=version("tensorrt"),
        )
        config.set_optim_cache_dir(str(kept))


def input_name(folder: Path) -> str:
    """The name of the model's one input, which TensorRT's shape ranges are given for."""
    inference = _paddle().inference
    config = inference.Config(str(program(folder)), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.switch_ir_optim(False)
    name: str = inference.create_predictor(config).get_input_names()[0]
    return name


def onednn_capacity(shapes: Iterable[Shape]) -> int:
    """Shapes whose oneDNN primitives are kept: every one on the list, within bounds.

    Unlimited, the cache leaks; zero crashes. What is forgotten is prepared anew, which takes up to 0.4 of a batch.
    """
    return min(max(len(frozenset(shapes)), 1), MOST_ONEDNN_SHAPES)


class PaddlePredictor:
    """Runs one folder with `inference.json` or `inference.pdmodel`, and `inference.pdiparams`; see `Predictor`.

    Raises:
        Unavailable: this machine's Paddle cannot run the model on `options.device`.
    """

    def __init__(self, folder: Path, shapes: Iterable[Shape], options: PaddleOptions) -> None:
        self.shapes = frozenset(shapes)
        self.runtime = version(options.device)
        self._options = options
        config = configure(folder, options, self.shapes)
        self._predictor = _paddle().inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def run(self, batch: Tensor) -> Tensor:
        size, _, height, width = batch.shape
        if Shape(size, height, width) not in self.shapes:
            raise ShapeRefused(batch.shape, self.shapes)
        try:
            self._input.copy_from_cpu(batch)
            self._predictor.run()
            output: Tensor = self._output.copy_to_cpu()
        except RuntimeError as error:
            # Paddle names its class only in the text.
            if "ResourceExhausted" in str(error) or "could not create a memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return output

    def warm_up(self) -> None:
        """Run every shape, or the smallest where oneDNN would forget most of them again."""
        by_size = sorted(self.shapes, key=lambda shape: shape.batch * shape.height * shape.width)
        keeps_all = self._options.device != "cpu" or len(by_size) <= onednn_capacity(by_size)
        for shape in by_size if keeps_all else by_size[:1]:
            self.run(np.zeros((shape.batch, 3, shape.height, shape.width), np.float32))

    def close(self) -> None:
        self._input = self._output = self._predictor = None
