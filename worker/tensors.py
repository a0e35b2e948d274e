"""From images to the tensor of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.predictors import Tensor

#: `uint8[H, W, 3]`, RGB.
Pixels = NDArray[np.uint8]
#: Height and width of a predictor's input.
Bucket = tuple[int, int]

#: PP-OCR's normalisation, (value / 255 - 0.5) / 0.5, for each of the 256 values.
_NORMALISED = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1


def batch_size(batches: Sequence[int], items: int) -> int:
    """The smallest of the ascending `batches` that holds all items."""
    return next(size for size in batches if size >= items)


def assemble(images: Sequence[Pixels], batch: int, bucket: Bucket) -> Tensor:
    """`float32[batch, 3, height, width]` with each image at the top left of its slot.

    Channels become BGR, which PP-OCR's models were trained on. The rest of a slot, and whole slots without an image, is
    0: the mean of the normalised values, as in training.
    """
    tensor = np.zeros((batch, 3, *bucket), np.float32)
    for slot, image in zip(tensor, images, strict=False):
        height, width = image.shape[:2]
        for channel, plane in zip(slot[::-1], cv2.split(image), strict=True):
            if plane.shape == channel.shape:
                cv2.LUT(plane, _NORMALISED, channel)
            else:
                channel[:height, :width] = cv2.LUT(plane, _NORMALISED)
    return tensor
