from __future__ import annotations

import numpy as np
import pytest

from worker.tensors import HostKernels, Shrunk, portions


def test_images_become_normalised_bgr_at_the_top_left_of_their_slots() -> None:
    # Given one image as large as the bucket and one smaller, for a batch of three
    full = np.full((32, 64, 3), (255, 127, 0), np.uint8)
    small = np.full((16, 40, 3), (0, 0, 255), np.uint8)

    tensor = HostKernels().shrink([Shrunk(full, 32, 64), Shrunk(small, 16, 40)], 3, (32, 64))

    # Then blue comes first, the values lie between -1 and 1, and what is not image is 0
    assert tensor.shape == (3, 3, 32, 64)
    assert tensor.dtype == np.float32
    expected = np.array((-1, 127 / 127.5 - 1, 1), np.float32)
    assert np.allclose(tensor[0], expected[:, None, None])
    assert np.allclose(tensor[1, :, :16, :40], np.array((1, -1, -1))[:, None, None])
    assert not tensor[1, :, 16:].any()
    assert not tensor[1, :, :, 40:].any()
    assert not tensor[2].any()


@pytest.mark.parametrize(
    ("batches", "items", "sizes"),
    [
        ((1, 2, 3, 4), 3, [3]),
        ((8, 64), 64, [64]),
        ((8, 64), 40, [64]),
        ((8, 64), 30, [8, 8, 8, 8]),
        ((8, 64), 3, [8]),
        ((1, 8), 4, [1, 1, 1, 1]),
        ((1, 8), 5, [8]),
    ],
)
def test_a_batch_that_would_be_mostly_empty_becomes_smaller_ones(
    batches: tuple[int, ...], items: int, sizes: list[int]
) -> None:
    assert portions(batches, items) == sizes
