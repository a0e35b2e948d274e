"""What the pool is measured against: RapidOCR with the same models and runtime, called in a loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


class RapidOcrLoop:
    """RapidOCR as its documentation uses it: one image a call, every core inside the call. Loaded and warm.

    By default it asks a classifier for the orientation of every line; the pool does so on request only.
    """

    def __init__(self, warm_up: Path, *, orientation: bool) -> None:
        from rapidocr import RapidOCR

        self.name = "RapidOCR" if orientation else "RapidOCR, orientation off"
        self._engine = RapidOCR(params={"Global.log_level": "error", "Global.use_cls": orientation})
        self._engine(str(warm_up))

    def read(self, paths: Sequence[Path]) -> tuple[float, list[str]]:
        """Seconds for all images, and their texts."""
        started = time.perf_counter()
        texts = []
        for path in paths:
            found = self._engine(path)
            texts.append("\n".join(getattr(found, "txts", None) or ()))
        return time.perf_counter() - started, texts
