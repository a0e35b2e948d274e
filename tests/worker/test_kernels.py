"""The card's kernels against their twins in OpenCV and numpy.

Where there is no card, the pixel kernels are compiled for the CPU from the same source and called for each pixel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worker.compiled_kernels import COMPILER, compiled
from worker import kernels
from worker.device import DeviceFailed
from worker.kernels import CUT, SHRUNK, CudaKernels
from worker.predictors.endings import best_classes
from worker.recognition import LineInput, cuts
from worker.tensors import Batch, Bucket, Cut, HostKernels, Kernels, Page, Pixels, Shrunk, Tensor

OPENCV_5 = int(cv2.__version__.split(".")[0]) >= 5


class CompiledKernels:
    """kernels.cu on the CPU."""

    def __init__(self, folder: Path) -> None:
        self._library = compiled(folder)

    def load(self, pixels: Pixels) -> Page:
        return np.ascontiguousarray(pixels)

    def shrink(self, items: Sequence[Shrunk], batch: int, bucket: Bucket) -> Batch:
        rows = [(one.page.ctypes.data, *one.page.shape[:2], one.height, one.width) for one in items]
        return self._run("shrink_all", np.array(rows, SHRUNK), batch, bucket)

    def cut(self, items: Sequence[Cut], batch: int, bucket: Bucket) -> Batch:
        rows = [(one.page.ctypes.data, *one.page.shape[:2], one.columns, 0, one.warp.reshape(9)) for one in items]
        return self._run("cut_all", np.array(rows, CUT), batch, bucket)

    def _run(self, name: str, table: NDArray[Any], batch: int, bucket: Bucket) -> Tensor:
        tensor = np.full((batch, 3, *bucket), np.nan, np.float32)
        at = (ctypes.c_void_p(table.ctypes.data), len(table), ctypes.c_void_p(tensor.ctypes.data), batch, *bucket)
        getattr(self._library, name)(*at)
        return tensor


@pytest.fixture(scope="module", params=["compiled", "card"])
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if request.param == "compiled":
        if COMPILER is None:
            pytest.skip("g++ is not installed")
        return CompiledKernels(tmp_path_factory.mktemp("kernels"))
    if missing := kernels.missing():
        pytest.skip(missing)
    return CudaKernels(4 * 3 * 640 * 640)


def levels_apart(kernels: Kernels, batch: Batch, expected: Tensor) -> NDArray[np.float64]:
    """How many grey levels two tensors lie apart, value for value."""
    found = batch if isinstance(batch, np.ndarray) else batch.get()
    apart: NDArray[np.float64] = np.abs(found.astype(np.float64) - expected) * 127.5
    return apart


def page_of(height: int, width: int, seed: int) -> Pixels:
    """Print and noise: sharp edges show what smooth pictures hide."""
    page = np.random.default_rng(seed).integers(180, 256, (height, width, 3)).astype(np.uint8)
    for n in range(0, height, 40):
        cv2.putText(page, f"TOTAL {seed}{n}", (n % 60, n + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (20, 30, 90), 1)
    return page


@pytest.mark.parametrize(
    ("page", "size"),
    [((400, 300), (400, 300)), ((400, 300), (320, 240)), ((999, 701), (450, 316)), ((80, 100), (120, 150))],
    ids=["as it is", "a little smaller", "less than half", "larger"],
)
def test_shrunk_pages_are_those_of_opencv(beside: Kernels, page: tuple[int, int], size: tuple[int, int]) -> None:
    pages = [page_of(*page, seed) for seed in (1, 2)]
    bucket = (size[0] + 16, size[1] + 32)

    expected = HostKernels().shrink([Shrunk(one, *size) for one in pages], 3, bucket)
    made = beside.shrink([Shrunk(beside.load(one), *size) for one in pages], 3, bucket)

    # Then no value is more than one grey level off, few are off at all, and what is not image is 0
    apart = levels_apart(beside, made, expected)
    assert apart.max() <= 1.01
    assert (apart > 0.01).mean() < 0.1


def test_cut_lines_are_those_of_opencv(beside: Kernels) -> None:
    # Given lines of two pages: upright, slanted, in perspective, upside down, enlarged, at the rim, beyond it
    pages = [page_of(400, 300, 3), page_of(320, 500, 4)]
    quads = [
        [(10, 10), (210, 10), (210, 40), (10, 40)],
        [(20, 60), (180, 90), (175, 120), (15, 90)],
        [(30, 150), (200, 140), (210, 190), (25, 180)],
        [(210, 240), (10, 240), (10, 210), (210, 210)],
        [(100, 250), (150, 250), (150, 262), (100, 262)],
        [(0, 0), (299, 0), (299, 20), (0, 20)],
        [(-20, 290), (120, 290), (120, 330), (-20, 330)],
    ]
    lines = [(page, np.array(quad, np.float32)) for page in pages for quad in quads]
    bucket = (48, 320)

    def made(kernels: Kernels) -> Batch:
        loaded = [(kernels.load(page), quad) for page, quad in lines]
        return kernels.cut(cuts([LineInput(page, quad, 300, bucket) for page, quad in loaded]), 16, bucket)

    apart = levels_apart(beside, made(beside), made(HostKernels()))

    # Then values differ by rounding alone; OpenCV 4 also rounds places to 32nds of a pixel
    assert apart.max() <= (1.01 if OPENCV_5 else 5.01)
    assert (apart > 0.01).mean() < (0.01 if OPENCV_5 else 0.5)
    assert not apart[:, :, :, 300:].any()


@pytest.mark.skipif(bool(kernels.missing()), reason=kernels.missing())
@pytest.mark.parametrize("precision", [np.float32, np.float16])
def test_the_best_classes_are_those_of_a_softmax(precision: type[Any]) -> None:
    import cupy

    card = CudaKernels(1)
    logits = np.random.default_rng(5).normal(0, 6, (3, 7, 18_710)).astype(precision)
    logits[0, 0, [17, 900]] = 60  # of equals the first
    softmax = np.exp(logits.astype(np.float64) - logits.max(axis=2, keepdims=True).astype(np.float64))
    softmax /= softmax.sum(axis=2, keepdims=True)

    with card.on_card("test"):
        answers = card.fetch(card.best_classes(cupy.asarray(logits)))

    expected = best_classes(softmax.astype(np.float32))
    assert (answers[..., 0] == expected[..., 0]).all()
    assert np.allclose(answers[..., 1], expected[..., 1], rtol=1e-3)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize",
            DeviceFailed,
        ),
        # Where it comes to light says nothing of what it is.
        (
            "CUDA failure 700: an illegal memory access was encountered ; file=cuda_allocator.cc ; expr=cudaMalloc",
            DeviceFailed,
        ),
        ("cudaErrorLaunchFailure: unspecified launch failure", DeviceFailed),
        ("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", DeviceFailed),
        ("Non-zero status code while running Conv. CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", DeviceFailed),
        ("(External) CUDA error(719), unspecified launch failure.", DeviceFailed),
        ("CUDA failure 2: out of memory", MemoryError),
        ("cudaErrorMemoryAllocation: out of memory", MemoryError),
        ("(External) CUDA error(2), out of memory.", MemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", MemoryError),
        ("Failed to allocate memory for requested buffer of size 90", MemoryError),
        ("Got invalid dimensions for input: x", RuntimeError),
    ],
)
def test_errors_of_a_card_are_told_apart(told: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, kernels.card_errors():
        raise RuntimeError(told)
    assert type(caught.value) is kind
