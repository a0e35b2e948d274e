"""`python -P open_worker.py`: a worker that decodes images in its own process, without limits. To measure with."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer.job import MediaType
from producer.settings import DECODER_LIMITS, Settings
from worker import station
from worker.__main__ import main
from worker.decoding import Limits, Pixels
from worker.decoding.images import ImageDocument


@dataclass
class OpenPage:
    """As `worker.rasterise.RasterPage`, on memory of this process."""

    pixels: Pixels
    width: int
    height: int
    angle: int

    def __enter__(self) -> OpenPage:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class OpenRasteriser:
    """As `worker.rasterise.Rasteriser`: as many pages are decoded at a time, by the same code."""

    def __init__(self, settings: Settings) -> None:
        self._limits = Limits(**settings.model_dump(include=DECODER_LIMITS))
        self._seats = threading.Semaphore(settings.rasterise_processes or len(os.sched_getaffinity(0)))

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def page(self, path: Path, media_type: MediaType, page: int) -> OpenPage:
        pages: list[Pixels] = []

        def allocate(width: int, height: int) -> Pixels:
            pages.append(np.empty((height, width, 3), np.uint8))
            return pages[-1]

        with self._seats, path.open("rb") as file, closing(ImageDocument(file, media_type, self._limits)) as document:
            angle = document.draw(page, allocate)
        height, width, _ = pages[-1].shape
        return OpenPage(pages[-1], width, height, angle)


if __name__ == "__main__":
    station.__dict__["Rasteriser"] = OpenRasteriser
    main()
