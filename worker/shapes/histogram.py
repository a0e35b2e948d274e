"""How large the pages of a collection are, and how wide their lines: what shapes are fitted to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from producer.errors import DocumentError, InvalidRequest, ProcessingError
from producer.job import MediaType
from producer.media import SNIFF_BYTES, sniff
from producer.settings import Settings, Size
from worker.detection import Detector
from worker.predictors import Predictor, Stage
from worker.rasterise import Rasteriser
from worker.recognition import upright
from worker.runtimes import build_predictor, choose
from worker.shapes import ShapeList
from worker.shapes.padding import paddlex_columns
from worker.tensors import LONGEST_SIDE, Pixels

Count = Annotated[int, Field(ge=1)]


class Histogram(BaseModel):
    """What was counted. The histograms of several machines add up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    #: Pages by `height x width` in pixels.
    pages: dict[Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*$")], Count]
    #: Lines by their width in pixels at the recogniser's height.
    lines: dict[Annotated[int, Field(ge=1)], Count]
    #: Columns that PaddleX's policy would run for the same lines, padding included: it needs to know each page's lines.
    paddlex_columns: int = Field(ge=0)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(
            pages=dict(Counter(self.pages) + Counter(other.pages)),
            lines=dict(Counter(self.lines) + Counter(other.lines)),
            paddlex_columns=self.paddlex_columns + other.paddlex_columns,
        )

    @property
    def sizes(self) -> dict[Size, int]:
        """Pages by (height, width)."""
        return {(int(h), int(w)): pages for size, pages in self.pages.items() for h, w in [size.split("x")]}

    @classmethod
    def of(cls, pages: Iterable[tuple[Size, NDArray[np.int64]]]) -> Histogram:
        """Count pages, each given by its (height, width) and its lines' widths."""
        sizes, lines, padded = Counter[str](), Counter[int](), 0
        for (height, width), widths in pages:
            sizes[f"{height}x{width}"] += 1
            lines.update(widths.tolist())
            padded += paddlex_columns(widths)
        return cls(pages=dict(sizes), lines=dict(lines), paddlex_columns=padded)

    @classmethod
    def load(cls, path: Path) -> Histogram:
        """Read what `save` wrote.

        Raises:
            InvalidRequest: the file holds something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InvalidRequest(f"{path} is not a histogram of ocrpool: {error.errors()[0]['msg']}.") from error

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")


@dataclass
class Survey:
    """Reads page sizes and line widths out of documents, with the decoders and the detector of a worker.

    `skipped` is told of each document that cannot be read, and why.
    """

    settings: Settings
    shapes: ShapeList
    skipped: Callable[[Path, str], None]
    _detector: Detector = field(init=False)

    def __post_init__(self) -> None:
        self._detector = Detector(self.shapes)

    def pages(self, folder: Path, progress: Callable[[int, int], None]) -> Iterator[tuple[Size, NDArray[np.int64]]]:
        """The (height, width) of each page below `folder`, and its lines' widths; `progress` gets (done, total).

        Raises:
            InvalidRequest: no document lies there.
            Unavailable: this machine can run no model.
        """
        documents = list(_documents(folder))
        if not documents:
            raise InvalidRequest(f"{folder} holds no PDF or image.")
        with _rasteriser(self.settings) as rasteriser, self._predictor() as predictor:
            counted = [
                (path, kind, pages)
                for path, kind in documents
                if (pages := self._count_pages(rasteriser, path, kind)) is not None
            ]
            done, total = 0, sum(pages for _, _, pages in counted)
            progress(done, total)
            for path, kind, pages in counted:
                for number in range(1, pages + 1):
                    try:
                        with rasteriser.page(path, kind, number) as page:
                            found = self._page(predictor, page.pixels)
                        yield found
                    except (DocumentError, ProcessingError) as error:
                        self.skipped(path, f"page {number}: {error}")
                    done += 1
                    progress(done, total)

    def _count_pages(self, rasteriser: Rasteriser, path: Path, kind: MediaType) -> int | None:
        try:
            return rasteriser.count_pages(path, kind)
        except (DocumentError, ProcessingError) as error:
            self.skipped(path, str(error))
            return None

    def _page(self, predictor: Predictor, pixels: Pixels) -> tuple[Size, NDArray[np.int64]]:
        height, width = pixels.shape[:2]
        item, bucket = self._detector.prepare(predictor.kernels.load(pixels))
        (text,) = self._detector.run(predictor, bucket, [item])
        return (height, width), upright(self._detector.finish(text, item), LONGEST_SIDE)[1]

    @contextmanager
    def _predictor(self) -> Iterator[Predictor]:
        choice = choose(self.settings)
        execution = replace(choice.execution, threads=self.settings.predictor_threads or os.cpu_count() or 1)
        predictor = build_predictor(choice.model, Stage.DETECTOR, self._detector.shapes, execution)
        try:
            yield predictor
        finally:
            predictor.close()


def _documents(folder: Path) -> Iterator[tuple[Path, MediaType]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
        try:
            yield path.absolute(), sniff(head)
        except DocumentError:
            continue


@contextmanager
def _rasteriser(settings: Settings) -> Iterator[Rasteriser]:
    rasteriser = Rasteriser(settings)
    rasteriser.start()
    try:
        yield rasteriser
    finally:
        rasteriser.stop()
