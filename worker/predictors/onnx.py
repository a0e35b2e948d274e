"""ONNX Runtime, on the CPU or on a card. The only module that imports `onnxruntime`."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import structlog

from worker import kernels
from worker.kernels import CudaKernels
from worker.predictors import Answers, Device, Execution, Shape, Stage, check_shape, graph
from worker.predictors.engine_files import building, engine_folder
from worker.predictors.graph import ANSWERS
from worker.tensors import Batch, HostKernels, Kernels, Tensor

#: Runs after which the runtime has chosen its algorithms, taken its memory and recorded what it replays from then on.
WARM_UP_RUNS = 3
#: Of the runtime's severities, 0 to 4: it warns of much that is in order.
ERRORS_ONLY = 3
#: The two that compute on a card.
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
#: Where both read and write.
MEMORY = "cuda"

#: In what the runtime says of a session that shall be recorded and is not wholly TensorRT's.
NOT_RECORDED = "cannot use the CUDA Graph feature"

log = structlog.get_logger(__name__)

_sessions: WeakValueDictionary[tuple[Path, int], Any] = WeakValueDictionary()
_sessions_lock = threading.Lock()


def installed() -> bool:
    """Whether ONNX Runtime can be imported, told without importing it."""
    return find_spec("onnxruntime") is not None


def version() -> str:
    """The runtime and its version, such as `onnxruntime 1.31.1`."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def troubles(device: Device) -> Iterator[str]:
    """What keeps this build of the runtime from computing on a card, one phrase each."""
    import onnxruntime

    provider = TENSORRT if device == "tensorrt" else CUDA
    if provider not in onnxruntime.get_available_providers():
        yield f"this build of onnxruntime has no {provider} (onnxruntime-gpu has)"
        return
    onnxruntime.preload_dlls()  # CUDA and cuDNN, where they come as Python packages
    folder = Path(onnxruntime.__file__).parent / "capi"
    names = ["shared", "cuda", *(["tensorrt"] if device == "tensorrt" else [])]
    for name in names:
        try:
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
        except OSError as error:
            yield f"a library is missing: {error}"
            return


def _session(model: bytes, threads: int, providers: Sequence[tuple[str, Mapping[str, str]]]) -> Any:
    """A session on the providers, each for what those before it cannot run; what none of them can goes to the CPU.

    Raises:
        RuntimeError: the provider's libraries are not there, and the runtime would have used the CPU without a word.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(
        model, session_options, providers=[(name, dict(options)) for name, options in providers]
    )
    if missing := {name for name, _ in providers}.difference(session.get_providers()):
        raise RuntimeError(f"{sorted(missing)[0]} cannot be used here: its libraries are missing")
    return session


def default_run(path: Path, *, on_card: bool) -> Callable[[Tensor], Tensor]:
    """The file in a session of the runtime's own default options, which takes any shape: what `ocrpool bench` starts
    from."""
    import onnxruntime

    providers = [CUDA, "CPUExecutionProvider"] if on_card else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), providers=providers)
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> Tensor:
        output: Tensor = session.run(None, {name: batch})[0]
        return output

    return run


class OnnxPredictor:
    """Runs one ONNX file on the CPU; see `Predictor`."""

    kernels: Kernels = HostKernels()

    def __init__(self, path: Path, stage: Stage, shapes: Iterable[Shape], threads: int) -> None:
        self.shapes = frozenset(shapes)
        self.runtime = f"{version()} cpu"
        self._stage = stage
        self._session = _shared_session(path, stage, threads)
        self._input: str = self._session.get_inputs()[0].name

    def run(self, batch: Batch) -> Answers:
        check_shape(batch, self.shapes)
        with kernels.card_errors():  # those of memory read alike on a CPU
            answers: Answers = self._session.run([ANSWERS], {self._input: batch})[0]
        return answers[:, 0] if self._stage is Stage.DETECTOR else answers

    def warm_up(self) -> None:
        """Run the smallest shape: on a CPU this runtime plans nothing per shape, and one run loads code and weights."""
        if self.shapes:
            smallest = min(self.shapes, key=lambda shape: shape.pixels)
            self.run(np.zeros((smallest.batch, 3, smallest.height, smallest.width), np.float32))

    def close(self) -> None:
        self._session = None


def _shared_session(path: Path, stage: Stage, threads: int) -> Any:
    """One session a file, shared by every predictor of it: a session's `run` may be called by many threads."""
    with _sessions_lock:
        session = _sessions.get((path, threads))
        if session is None:
            model = graph.load(path)
            graph.end_in_answers(model, stage)
            session = _session(graph.serialised(model), threads, [("CPUExecutionProvider", {})])
            _sessions[path, threads] = session
        return session


@dataclass(frozen=True)
class _Recording:
    """One shape on the card: its session, what its input and output are bound to, and the output."""

    session: Any
    binding: Any
    output: Any

    def replay(self) -> None:
        """Put the recorded work on the stream. The first call records it."""
        self.session.run_with_iobinding(self.binding, _unawaited())


@cache
def _unawaited() -> Any:
    """Options of a run whose answers are waited for behind the kernels that follow on the same stream."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


class OnnxCardPredictor:
    """Runs one ONNX file on a card; see `Predictor`.

    Each shape has a session of its own, whose work is recorded once as a CUDA graph and replayed for every batch. A
    recogniser's class scores stay on the card: a kernel reads the best class of each step out of them.
    """

    def __init__(self, path: Path, stage: Stage, shapes: Iterable[Shape], execution: Execution) -> None:
        self.shapes = frozenset(shapes)
        self.runtime = f"{version()} {execution.device}"
        self._path, self._stage, self._execution = path, stage, execution
        self._card = CudaKernels(max(3 * shape.pixels for shape in self.shapes))
        self.kernels: Kernels = HostKernels() if execution.host_kernels else self._card
        self._model = graph.load(path)
        if execution.half:
            self._model = _halved(self._model)
        if stage is Stage.RECOGNISER:
            graph.end_in_logits(self._model, half=execution.half)
        else:
            graph.end_in_answers(self._model, stage)
        self._recordings: dict[Shape, _Recording] = {}
        self._tails: dict[int, tuple[int, ...]] = {}

    def run(self, batch: Batch) -> Answers:
        shape = check_shape(batch, self.shapes)
        recording = self._recordings.get(shape) or self._record(shape)
        with self._card.on_card(f"{self._stage} {shape}"):
            self._card.place(batch)
            recording.replay()
            return self._answers(recording)

    def warm_up(self) -> None:
        """Record every shape, the largest first, in the thread that will call `run`: a recording belongs to its thread.

        While one is recorded, nothing else of this process may take memory on the card. A shape takes 2 to 5 s, which
        cuDNN needs to plan its kernels; side by side in several threads they take as long.
        """
        kernels.compile_all()
        with building(self._engines) if self._execution.device == "tensorrt" else nullcontext():
            for shape in sorted(self.shapes, key=lambda shape: -shape.pixels):
                self._record(shape)

    def close(self) -> None:
        self._recordings.clear()

    def _answers(self, recording: _Recording) -> Answers:
        output = recording.output
        if self._stage is Stage.DETECTOR:
            return self._card.fetch(output)[:, 0]
        if self._stage is Stage.RECOGNISER:
            return self._card.fetch(self._card.best_classes(output))
        return self._card.fetch(output)

    def _record(self, shape: Shape) -> _Recording:
        with self._card.on_card(f"record {shape}"):
            output = self._card.empty((shape.batch, *self._tail(shape)), self._output_type)
            session = self._session(shape)
            binding = session.io_binding()
            sides = (shape.batch, 3, shape.height, shape.width)
            binding.bind_input(session.get_inputs()[0].name, MEMORY, 0, np.float32, sides, self._card.input.data.ptr)
            binding.bind_output(ANSWERS, MEMORY, 0, self._output_type, output.shape, output.data.ptr)
            recording = self._recordings[shape] = _Recording(session, binding, output)
            for _ in range(WARM_UP_RUNS):
                recording.replay()
            self._card.stream.synchronize()
        return recording

    @property
    def _output_type(self) -> type[Any]:
        if self._stage is Stage.DETECTOR:
            return np.uint8
        return np.float16 if self._stage is Stage.RECOGNISER and self._execution.half else np.float32

    def _tail(self, shape: Shape) -> tuple[int, ...]:
        """The output's shape behind its batch axis; a recogniser is asked on the CPU, with one line of that width."""
        if self._stage is Stage.DETECTOR:
            return 1, shape.height, shape.width
        if self._stage is Stage.ORIENTATION:
            return (2,)
        if shape.width not in self._tails:
            (entry,) = self._probe.get_inputs()
            (output,) = self._probe.run(None, {entry.name: np.zeros((1, 3, shape.height, shape.width), np.float32)})
            self._tails[shape.width] = output.shape[1:]
        return self._tails[shape.width]

    @cached_property
    def _probe(self) -> Any:
        return _session(graph.serialised(graph.load(self._path)), 1, [("CPUExecutionProvider", {})])

    def _session(self, shape: Shape) -> Any:
        """Both providers work on the predictor's stream; the second runs what the first cannot."""
        model, stream = graph.for_shape(self._model, shape), self._card.stream.ptr
        if self._execution.device == "cuda":
            return _session(model, 1, [(CUDA, cuda_options(stream))])
        name = self._model.graph.input[0].name
        tensorrt = tensorrt_options(name, shape, self._engines, stream, half=self._execution.half)
        # What is left over is not a whole graph, which alone could be recorded.
        behind = CUDA, cuda_options(stream) | {"enable_cuda_graph": "0"}
        try:
            return _session(model, 1, [(TENSORRT, tensorrt), behind])
        except Exception as error:
            if NOT_RECORDED not in str(error):
                raise
        # Nor can what TensorRT takes, if something is left over: the runtime refuses such a session as a whole.
        log.warning("tensorrt.not_recorded", stage=self._stage.value, shape=str(shape))
        return _session(model, 1, [(TENSORRT, tensorrt | {"trt_cuda_graph_enable": "0"}), behind])

    @cached_property
    def _engines(self) -> Path:
        return engine_folder(
            self._execution.engines,
            self._path,
            precision="fp16" if self._execution.half else "fp32",
            shapes=self.shapes,
            card=kernels.card_name(),
            runtime=version(),
        )


def cuda_options(stream: int) -> dict[str, str]:
    """Options of the CUDA provider for a session that sees one shape and works on one stream."""
    return {
        "device_id": "0",  # the launcher shows a worker its own card only
        "user_compute_stream": str(stream),
        "enable_cuda_graph": "1",
        # Measured on an H100: as fast as an exhaustive search, which takes twice as long.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }


def tensorrt_options(input_name: str, shape: Shape, engines: Path, stream: int, *, half: bool) -> dict[str, str]:
    """Options of the TensorRT provider for a session that sees one shape: its profile has no range to rebuild for."""
    profile = f"{input_name}:{shape}"
    return {
        "device_id": "0",
        "user_compute_stream": str(stream),
        "trt_fp16_enable": str(int(half)),
        "trt_max_workspace_size": str(1 << 30),
        "trt_min_subgraph_size": "3",
        "trt_cuda_graph_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
        **{f"trt_profile_{bound}_shapes": profile for bound in ("min", "max", "opt")},
    }


def _halved(model: Any) -> Any:
    """The model in float16; its input stays float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=[model.graph.input[0].name])
