"""The card's side of a page: it lies there once, and the batches of both stages are made of it without leaving again.

The only module that imports `cupy`. `kernels.cu` holds the kernels; each has its twin in `worker.tensors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from worker.device import DeviceFailed
from worker.tensors import Batch, Bucket, Cut, Page, Pixels, Shrunk

#: The structures of kernels.cu.
SHRUNK = np.dtype([("page", np.uint64), *((name, np.int32) for name in ("height", "width", "rows", "columns"))])
CUT = np.dtype(
    [
        ("page", np.uint64),
        *((name, np.int32) for name in ("height", "width", "columns", "unused")),
        ("warp", np.float64, 9),
    ]
)
SOURCE = Path(__file__).with_name("kernels.cu")
#: Threads of a block across and down: a line is 48 pixels high.
BLOCK = (32, 8, 1)
#: Threads that share the classes of one step.
CLASS_THREADS = 256


def missing() -> str:
    """What keeps CuPy from running here, or nothing."""
    if find_spec("cupy") is None:
        return "the package cupy is not installed"
    try:
        import cupy

        if not cupy.cuda.runtime.getDeviceCount():
            return "CUDA sees no card"
        cupy.zeros(1) + 1  # compiles a kernel
    except Exception as error:  # a missing library, driver or header, each with a class of its own
        return f"cupy cannot run: {str(error).partition(chr(10))[0]}"
    return ""


def memory() -> tuple[int, int]:
    """Bytes of this process's card that are free, and bytes that it has."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return int(free), int(total)


def arena() -> tuple[int, int]:
    """Bytes of the card that this process's pages and batches use, and bytes that it holds for them."""
    import cupy

    pool = cupy.get_default_memory_pool()
    return int(pool.used_bytes()), int(pool.total_bytes())


def card_name() -> str:
    """The name of this process's card, such as `NVIDIA H100 80GB HBM3`."""
    import cupy

    name: bytes = cupy.cuda.runtime.getDeviceProperties(0)["name"]
    return name.decode()


#: How errors read that say there was no room; the runtimes have no classes of their own for them.
NO_ROOM = re.compile("alloc|out of memory", re.IGNORECASE)
#: How CUDA's own errors read, by number or by name: they say what happened, whatever call or file is named beside them.
CUDA_ERROR = re.compile(r"\bCUDA (?:failure |error ?\()(\d+)|\b(cudaError\w+|CUDA_ERROR_\w+)", re.IGNORECASE)
CUDA_NO_ROOM = ("2", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")
#: How all other errors of CUDA and its libraries read, in CuPy, ONNX Runtime and Paddle: `CUDA failure 700: ...`,
#: `cudaErrorLaunchFailure: ...`, `CUBLAS_STATUS_EXECUTION_FAILED`, `CUDNN error(8)`.
CARD_FAILED = re.compile(r"\b(cuda|cudnn|cublas)(_status|_?error| error| failure)", re.IGNORECASE)


@contextmanager
def card_errors() -> Iterator[None]:
    """Tell errors of the card apart.

    Raises:
        MemoryError: there was no room; the next batch may have some.
        DeviceFailed: any other error of CUDA: after most of them, every later call of this process fails.
    """
    try:
        yield
    except (MemoryError, DeviceFailed):
        raise
    except Exception as error:
        told = str(error)
        cuda = CUDA_ERROR.search(told)
        if (cuda[1] or cuda[2]) in CUDA_NO_ROOM if cuda else NO_ROOM.search(told):
            raise MemoryError(told) from error
        if CARD_FAILED.search(told):
            raise DeviceFailed(told.partition("\n")[0]) from error
        raise


@cache
def _function(name: str) -> Any:
    """A kernel, compiled once for the card of this process."""
    return _module().get_function(name)


@cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++17",))


def compile_all() -> None:
    """Compile every kernel, so that the first page does not wait for it, nor fails at it."""
    for name in ("shrink", "cut", "best_classes_half", "best_classes_single"):
        _function(name)


@cache
def _loading() -> Any:
    """The stream that brings pages to the card: all pages come from one memory arena."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def decoded_page(image: Any) -> Page | None:
    """A copy of what another library has decoded on the card, as a page; None for no image.

    Raises:
        MemoryError: there is no room for it.
        DeviceFailed: the card failed.
    """
    import cupy

    if image is None:
        return None
    with card_errors(), _loading():
        page = cupy.array(image, np.uint8)
        page = cupy.ascontiguousarray(cupy.broadcast_to(page, (*page.shape[:2], 3)))
        _loading().synchronize()
    return page


class CudaKernels:
    """Makes one predictor's tensors on the card; see `Kernels`.

    All work of a predictor runs in order on one `stream`; whoever uses it does so inside `on_card`.
    """

    def __init__(self, input_floats: int) -> None:
        import cupy

        self.stream = cupy.cuda.Stream(non_blocking=True)
        #: The memory that every batch of this predictor is made in, `float32[input_floats]`.
        self.input = cupy.empty(input_floats, np.float32)
        self._pinned: dict[str, NDArray[np.uint8]] = {}

    def load(self, pixels: Pixels | Page) -> Page:
        import cupy

        if not isinstance(pixels, np.ndarray):
            return pixels  # decoded on the card
        with card_errors(), _loading():
            page = cupy.empty(pixels.shape, np.uint8)
            page.set(pixels)
            _loading().synchronize()
        return page

    def shrink(self, items: Sequence[Shrunk], batch: int, bucket: Bucket) -> Batch:
        table = np.zeros(len(items), SHRUNK)
        for row, item in zip(table, items, strict=True):
            row["page"], (row["height"], row["width"]) = item.page.data.ptr, item.page.shape[:2]
            row["rows"], row["columns"] = item.height, item.width
        return self._made("shrink", table, batch, bucket)

    def cut(self, items: Sequence[Cut], batch: int, bucket: Bucket) -> Batch:
        table = np.zeros(len(items), CUT)
        table["page"] = [item.page.data.ptr for item in items]
        table["height"] = [item.page.shape[0] for item in items]
        table["width"] = [item.page.shape[1] for item in items]
        table["columns"] = [item.columns for item in items]
        table["warp"] = np.stack([item.warp for item in items]).reshape(-1, 9)
        return self._made("cut", table, batch, bucket)

    @contextmanager
    def on_card(self, name: str) -> Iterator[None]:
        """Run what follows in this thread on the predictor's stream, under a name that profilers show (NVTX)."""
        import cupyx.profiler

        with card_errors(), self.stream, cupyx.profiler.time_range(name):
            yield

    def place(self, batch: Batch) -> None:
        """Bring a batch into `input`, unless it was made there."""
        if isinstance(batch, np.ndarray):
            self.input[: batch.size].set(self._pin("batch", np.ascontiguousarray(batch, np.float32)).reshape(-1))
        elif batch.data.ptr != self.input.data.ptr:
            self.input[: batch.size] = batch.reshape(-1)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Memory on the card."""
        import cupy

        return cupy.empty(shape, dtype)

    def best_classes(self, logits: Any) -> Any:
        """Of a recogniser's `float[N, T, C]` before its softmax, `float32[N, T, 2]`: best class and its probability."""
        size, steps, classes = logits.shape
        answers = self.empty((size, steps, 2), np.float32)
        name = "best_classes_half" if logits.dtype == np.float16 else "best_classes_single"
        arguments = (logits, answers, np.int32(classes))
        _function(name)((size * steps,), (CLASS_THREADS,), arguments, stream=self.stream)
        return answers

    def fetch(self, array: Any) -> NDArray[Any]:
        """A copy in the host's memory, once the stream has come to it."""
        pinned = self._pin_empty("answers", array.nbytes)[: array.nbytes].view(array.dtype).reshape(array.shape)
        array.get(out=pinned, stream=self.stream, blocking=False)
        self.stream.synchronize()
        copied: NDArray[Any] = pinned.copy()
        return copied

    def _made(self, name: str, table: NDArray[Any], batch: int, bucket: Bucket) -> Batch:
        import cupy

        height, width = bucket
        made = self.input[: batch * 3 * height * width].reshape(batch, 3, height, width)
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), batch)
        with card_errors(), self.stream:
            on_card = cupy.empty(table.nbytes, np.uint8)
            on_card.set(self._pin("table", table.view(np.uint8)))
            arguments = (on_card, np.int32(len(table)), made, np.int32(height), np.int32(width))
            _function(name)(grid, BLOCK, arguments, stream=self.stream)
        return made

    def _pin(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A copy of the values in memory that the card reads directly. Valid until the next of that name."""
        pinned = self._pin_empty(name, values.nbytes)[: values.nbytes].view(values.dtype).reshape(values.shape)
        pinned[...] = values
        return pinned

    def _pin_empty(self, name: str, size_bytes: int) -> NDArray[np.uint8]:
        held = self._pinned.get(name)
        if held is None or held.nbytes < size_bytes:
            import cupyx

            held = self._pinned[name] = cupyx.empty_pinned(size_bytes, np.uint8)
        return held
