"""Hostile bytes -> RGB array, in sandboxed child processes.

    Rasteriser.page          any thread; blocks until a decoder is free
      worker.decoder         one child process: JSON over a socket, never pickle
        worker.decoding      in the child, under limits: Pillow and pdfium read a descriptor, and say the page's size
      worker.budget          waits until the page's memory is free
        worker.decoding      in the child again: they draw on memory that the parent made
      RasterPage             the same memory, mapped read-only here

The memory has no name, so nothing is left behind whatever is killed; and its size is sealed, so a child that was taken
over cannot pull it away from under its reader.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from producer.errors import (
    CorruptDocument,
    DeadlineExceeded,
    FetchFailed,
    Internal,
    OcrpoolError,
    PageTimeout,
    Unavailable,
    from_code,
)
from producer.escaping import escaped
from producer.job import MediaType
from producer.settings import Settings
from worker.budget import RasterBudget
from worker.decoder import Decoder, DecoderDied, DecoderTimeout, Drawn, Pages, Refused, Reply, Size, Text, imports
from worker.decoding.sandbox import WALLS

CHANNELS = 3
#: Longest time for a page's own text: most take less than a tenth of a second, and OCR can always read it instead.
TEXT_TIMEOUT_S = 10.0
#: Signals that a child gets from outside, not from what it decodes.
FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class Raster(Protocol):
    """One decoded page, in the host's memory or on a card."""

    width: int
    height: int
    #: How the stored page was turned to stand upright, in degrees clockwise.
    angle: int

    @property
    def pixels(self) -> Any:
        """`uint8[height, width, 3]`, RGB."""
        ...


class Rasters(Protocol):
    """Where decoded pages come from."""

    def page(self, path: Path, media_type: MediaType, page: int) -> AbstractContextManager[Raster]:
        """One page, counted from 1, for as long as the context lasts. Any thread may ask.

        Raises:
            DocumentError: the page cannot be read.
            PageTimeout, Unavailable, Internal
        """
        ...


class RasterPage:
    """One decoded page on shared memory.

    Attributes:
        pixels: `uint8[height, width, 3]`, RGB, read-only.
        angle: How the stored page was turned to stand upright, in degrees clockwise: 0, 90, 180 or 270.

    `close` lets go of the memory; it returns to the system once no view of `pixels` is left either.
    """

    def __init__(self, memory: int, width: int, height: int, angle: int, *, freed: Callable[[], None]) -> None:
        """`freed` is called once, from any thread, when the memory has returned to the system."""
        mapped = mmap.mmap(memory, width * height * CHANNELS, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        weakref.finalize(mapped, freed).atexit = False
        self._pixels: NDArray[np.uint8] | None = np.frombuffer(mapped, np.uint8).reshape(height, width, CHANNELS)
        self.width = width
        self.height = height
        self.angle = angle

    @property
    def pixels(self) -> NDArray[np.uint8]:
        if self._pixels is None:
            raise ValueError("the page is closed")
        return self._pixels

    def close(self) -> None:
        self._pixels = None

    def __enter__(self) -> RasterPage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Rasteriser:
    """A pool of warm decoders. Thread-safe; a page that ends its decoder costs nothing but itself."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        processes = settings.rasterise_processes or len(os.sched_getaffinity(0))
        self._decoders = [Decoder(settings) for _ in range(processes)]
        self._idle: list[Decoder] = []
        self._budget = RasterBudget(settings.raster_budget_bytes)
        self._free = threading.Condition()
        self._started = False
        self._stopping = False
        #: Starts every child: its one thread lives as long as the pool (see `Decoder`).
        self._nursery = ThreadPoolExecutor(1, thread_name_prefix="rasterise")

    def start(self) -> None:
        """Start the children, and return once the first is ready; the others get ready on their own.

        Raises:
            Unavailable: it could not start: every page would fail; or the kernel has no sandbox, and must have one.
        """
        for decoder in self._decoders:
            self._start(decoder)
        try:
            self._decoders[0].wait_until_ready()
        except DecoderDied:
            raise Unavailable(f"The decoder processes cannot start: {imports() or 'they do not get ready'}.") from None
        self._check_walls(self._decoders[0].walls)
        with self._free:
            self._started = True
            self._idle.extend(self._decoders)
            self._free.notify_all()

    def stop(self) -> None:
        """End every child; pages that are being decoded raise `Unavailable`."""
        with self._free:
            self._stopping = True
            self._free.notify_all()
            self._budget.close()
            for decoder in self._decoders:
                decoder.kill()
            self._free.wait_for(lambda: not self._started or len(self._idle) == len(self._decoders))
            self._idle.clear()
            self._started = False
        for decoder in self._decoders:
            decoder.close()
        self._nursery.shutdown()

    @property
    def pids(self) -> list[int]:
        """The process ids of the children."""
        return [decoder.pid for decoder in self._decoders if decoder.pid is not None]

    @property
    def raster_bytes(self) -> int:
        """Memory of the decoded pages that are in use."""
        return self._budget.taken_bytes

    def count_pages(self, path: Path, media_type: MediaType, deadline: float | None = None) -> int:
        """How many pages the document has; 1 for images other than TIFF. `deadline` is on the pool's clock.

        Raises:
            DocumentError: the document cannot be read; `TooManyPages` beyond the limit.
            PageTimeout: counting took longer than one page may take.
            DeadlineExceeded, Unavailable, Internal
        """
        request: dict[str, object] = {"kind": "count", "media_type": media_type}
        with _opened(path) as document, self._borrow(path, deadline) as decoder:
            return self._try(decoder, lambda: self._count(decoder, request, document, deadline), request)

    def page(self, path: Path, media_type: MediaType, page: int) -> RasterPage:
        """Decode one page, counted from 1. Blocks until a decoder is free and the page is drawn.

        Raises:
            DocumentError: the page cannot be read.
            PageTimeout: drawing took longer than the setting allows.
            Unavailable, Internal
        """
        request: dict[str, object] = {"kind": "page", "media_type": media_type, "page": page}
        with _opened(path) as document, self._borrow(path) as decoder:
            return self._try(decoder, lambda: self._draw(decoder, request, document), request)

    def text(self, path: Path, page: int) -> Text:
        """A PDF page's own text, the page counted from 1.

        Raises:
            DocumentError, PageTimeout: it cannot be had; the page may be read all the same.
            Unavailable, Internal
        """
        request: dict[str, object] = {"kind": "text", "media_type": MediaType.PDF, "page": page}
        with _opened(path) as document, self._borrow(path) as decoder:
            return self._try(decoder, lambda: self._text(decoder, request, document), request)

    def _text(self, decoder: Decoder, request: dict[str, object], document: int) -> Text:
        timeout_s = min(TEXT_TIMEOUT_S, self._settings.page_timeout_s)
        reply = _granted(decoder.request(request, timeout_s=timeout_s, document=document))
        if not isinstance(reply, Text) or reply.width * reply.height > self._settings.max_page_pixels:
            raise _wrong_answer(decoder)
        return reply

    def _count(self, decoder: Decoder, request: dict[str, object], document: int, deadline: float | None) -> int:
        timeout_s = self._settings.page_timeout_s
        if deadline is not None:
            timeout_s = min(timeout_s, deadline - self._clock())
            if timeout_s <= 0:
                raise DeadlineExceeded
        try:
            reply = _granted(decoder.request(request, timeout_s=timeout_s, document=document))
        except DecoderTimeout:
            if deadline is not None and self._clock() >= deadline:
                raise DeadlineExceeded from None
            raise
        if not isinstance(reply, Pages) or reply.pages > self._settings.max_pages:
            raise _wrong_answer(decoder)
        return reply.pages

    def _draw(self, decoder: Decoder, request: dict[str, object], document: int) -> RasterPage:
        timeout_s, began = self._settings.page_timeout_s, self._clock()
        size = _granted(decoder.request(request, timeout_s=timeout_s, document=document))
        if not isinstance(size, Size) or size.width * size.height > self._settings.max_page_pixels:
            raise _wrong_answer(decoder)
        timeout_s -= self._clock() - began
        size_bytes = size.width * size.height * CHANNELS
        self._budget.take(size_bytes)
        freed = partial(self._budget.give_back, size_bytes)
        try:
            with _page_memory(size_bytes) as memory:
                reply = _granted(decoder.draw(memory, timeout_s=timeout_s))
                if not isinstance(reply, Drawn):
                    raise _wrong_answer(decoder)
                return RasterPage(memory, size.width, size.height, reply.angle, freed=freed)
        except BaseException as error:
            freed()
            if not isinstance(error, OcrpoolError):
                decoder.kill()  # it may still wait for its memory
            raise

    def _try(self, decoder: Decoder, attempt: Callable[[], Answer], request: dict[str, object]) -> Answer:
        """Ask once more, of a fresh child, where the page was not to blame for the end of the first."""
        tried = set()
        while True:
            try:
                return attempt()
            except DecoderTimeout:
                raise self._too_slow() from None
            except DecoderDied as death:
                log.warning("decoder ended", returncode=death.returncode, asked=death.asked, **request)
                if self._stopping or death.asked in tried or not (_killed_from_outside(death) or not death.asked):
                    raise self._obituary(death) from None
                tried.add(death.asked)
            self._start(decoder)

    def _check_walls(self, walls: list[str]) -> None:
        missing = [wall for wall in WALLS if wall not in walls]
        if missing and self._settings.sandbox == "on":
            raise Unavailable(f"OCRPOOL_SANDBOX is on, and this kernel has no {' and no '.join(missing)}.")
        log.info("rasterise.sandbox", walls=walls, missing=missing)

    def _too_slow(self) -> PageTimeout:
        return PageTimeout(f"The page took longer than {self._settings.page_timeout_s:g} s to decode.")

    def _obituary(self, death: DecoderDied) -> OcrpoolError:
        if self._stopping:
            return Unavailable("The worker is stopping.")
        if not death.asked:
            return Internal("The decoder process did not start.")
        if death.returncode == -signal.SIGXCPU:
            return self._too_slow()
        if _killed_from_outside(death):
            return Internal("The decoder was killed from outside, twice, while it had the page.")
        return CorruptDocument("The page could not be decoded: it crashed the decoder or needed too much memory.")

    @contextmanager
    def _borrow(self, document: Path, deadline: float | None = None) -> Iterator[Decoder]:
        decoder = self._take(document, deadline)
        try:
            if not decoder.usable:
                self._start(decoder)
            decoder.document = document
            yield decoder
        finally:
            self._give_back(decoder)

    def _start(self, decoder: Decoder) -> None:
        try:
            self._nursery.submit(decoder.start).result()
        except OSError as error:
            raise Internal(f"The decoder process could not be started: {error.strerror}.") from error
        if self._stopping:  # `stop` may have been through before this child was there
            raise Unavailable("The worker is stopping.")

    def _take(self, document: Path, deadline: float | None) -> Decoder:
        """An idle decoder, rather the one that has the document open, or else the one that was idle longest."""
        with self._free:
            while not self._stopping and not self._idle:
                if deadline is not None and self._clock() >= deadline:
                    raise DeadlineExceeded
                self._free.wait(None if deadline is None else deadline - self._clock())
            if self._stopping:
                raise Unavailable("The worker is stopping.")
            decoder = next((decoder for decoder in self._idle if decoder.document == document), self._idle[0])
            self._idle.remove(decoder)
            return decoder

    def _give_back(self, decoder: Decoder) -> None:
        if not self._stopping and not decoder.usable:
            with suppress(OcrpoolError):  # the next page tries again
                self._start(decoder)
        with self._free:
            self._idle.append(decoder)
            self._free.notify_all()


def _killed_from_outside(death: DecoderDied) -> bool:
    return death.returncode is not None and -death.returncode in FROM_OUTSIDE


def _wrong_answer(decoder: Decoder) -> Internal:
    """A child that is out of step is not asked again."""
    decoder.kill()
    return Internal("The decoder gave a wrong answer.")


def _granted(reply: Reply) -> Reply:
    if isinstance(reply, Refused):
        raise from_code(reply.code, escaped(reply.message))
    return reply


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The document's descriptor: all of the file system that a child gets to see."""
    try:
        document = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FetchFailed("The document is gone from the blob store.") from None
    except OSError as error:
        raise Internal(f"The document could not be opened: {error.strerror}.") from None
    try:
        yield document
    finally:
        os.close(document)


@contextmanager
def _page_memory(size_bytes: int) -> Iterator[int]:
    """Memory without a name, whose size nobody can change; pages that are never touched cost nothing."""
    memory = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size_bytes)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield memory
    finally:
        os.close(memory)
