"""One rasteriser for all hostile documents, so that each is followed by others in the same decoders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from producer.settings import Settings
from worker.rasterise import Rasteriser


@pytest.fixture(scope="package")
def rasteriser() -> Iterator[Rasteriser]:
    rasteriser = Rasteriser(Settings(rasterise_processes=1))
    rasteriser.start()
    try:
        yield rasteriser
    finally:
        rasteriser.stop()
