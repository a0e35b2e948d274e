"""From pages to the tensor of one batch: where the pages lie, and what is cut out of them.

`Kernels` says how; `HostKernels` does it with OpenCV on the CPU, `worker.kernels.CudaKernels` on the card. Both give
the same tensors, within a grey level or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]
#: `uint8[H, W, 3]`, RGB.
Pixels = NDArray[np.uint8]
#: Height and width of a predictor's input.
Bucket = tuple[int, int]
#: A page where its predictors read it: `uint8[H, W, 3]`, RGB, in the host's memory or on a card.
Page = Any
#: `float32[N, 3, H, W]` where its predictor reads it.
Batch = Any

#: OpenCV warps no image with a side of 32,767 pixels or more.
LONGEST_SIDE = 32_000

#: A batch less full than this is run as several smaller ones.
LEAST_FILL = 0.6

#: PP-OCR's normalisation, (value / 255 - 0.5) / 0.5, for each of the 256 values.
_NORMALISED = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A whole page, to be scaled to `height` x `width` pixels."""

    page: Page
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Cut:
    """One line, to be cut out of its page and set upright.

    `warp` (`float64[3, 3]`) takes a pixel (x, y, 1) of the crop to the page's; the crop is `columns` pixels wide and as
    high as its bucket.
    """

    page: Page
    warp: NDArray[np.float64]
    columns: int


class Kernels(Protocol):
    """Makes the tensors of one predictor.

    Each image lies at the top left of its slot. Channels become BGR, which PP-OCR's models were trained on. The rest of
    a slot, and whole slots without an image, is 0: the mean of the normalised values, as in training.
    """

    def load(self, pixels: Pixels | Page) -> Page:
        """Bring a page to where its tensors are made. Any thread may call this.

        Raises:
            MemoryError: the card has no room for it.
        """
        ...

    def shrink(self, items: Sequence[Shrunk], batch: int, bucket: Bucket) -> Batch:
        """Whole pages as `float32[batch, 3, height, width]`, valid until the next call."""
        ...

    def cut(self, items: Sequence[Cut], batch: int, bucket: Bucket) -> Batch:
        """Lines as `float32[batch, 3, height, width]`, valid until the next call."""
        ...


class HostKernels:
    """OpenCV on the CPU; see `Kernels`. Safe to share between threads."""

    def load(self, pixels: Pixels | Page) -> Page:
        return pixels if isinstance(pixels, np.ndarray) else pixels.get()  # decoded on a card

    def shrink(self, items: Sequence[Shrunk], batch: int, bucket: Bucket) -> Batch:
        return _assemble([_scaled(item) for item in items], batch, bucket)

    def cut(self, items: Sequence[Cut], batch: int, bucket: Bucket) -> Batch:
        return _assemble([_warped(item, bucket[0]) for item in items], batch, bucket)


def portions(batches: Sequence[int], items: int) -> list[int]:
    """The sizes of the batches, out of the ascending `batches`, that together hold all items with few empty slots."""
    sizes = []
    while items > 0:
        size = next((size for size in batches if size >= items >= LEAST_FILL * size), None)
        size = size or max((size for size in batches if size <= items), default=batches[0])
        sizes.append(size)
        items -= size
    return sizes


def _scaled(item: Shrunk) -> Pixels:
    height, width = item.page.shape[:2]
    if (height, width) == (item.height, item.width):
        return np.asarray(item.page, np.uint8)
    interpolation = cv2.INTER_AREA if item.height < height or item.width < width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(item.page, (item.width, item.height), interpolation=interpolation), np.uint8)


def _warped(item: Cut, height: int) -> Pixels:
    page, warp = item.page, item.warp
    if max(page.shape[:2]) > LONGEST_SIDE:
        page, warp = _around(item, height)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = (item.columns, height)
    return np.asarray(cv2.warpPerspective(page, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _around(item: Cut, height: int) -> tuple[Pixels, NDArray[np.float64]]:
    """The part of a page around a line, with every n-th pixel only where OpenCV's limit on sides demands it."""
    corners = item.warp @ np.array([[0, item.columns, item.columns, 0], [0, 0, height, height], [1, 1, 1, 1]])
    corners = corners[:2] / corners[2]
    low = np.maximum(np.floor(corners.min(axis=1)).astype(int) - 1, 0)
    high = np.ceil(corners.max(axis=1)).astype(int) + 2
    step = int((high - low).max()) // LONGEST_SIDE + 1
    to_part = np.array([[1 / step, 0, -low[0] / step], [0, 1 / step, -low[1] / step], [0, 0, 1]])
    return item.page[low[1] : high[1] : step, low[0] : high[0] : step], to_part @ item.warp


def _assemble(images: Sequence[Pixels], batch: int, bucket: Bucket) -> Tensor:
    tensor = np.zeros((batch, 3, *bucket), np.float32)
    for slot, image in zip(tensor, images, strict=False):
        height, width = image.shape[:2]
        for channel, plane in zip(slot[::-1], cv2.split(image), strict=True):
            if plane.shape == channel.shape:
                cv2.LUT(plane, _NORMALISED, channel)
            else:
                channel[:height, :width] = cv2.LUT(plane, _NORMALISED)
    return tensor
