"""The NVIDIA cards that this process may use, found through NVML: without CUDA, and without memory on a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from producer.cpus import from_words
from producer.errors import Unavailable
from producer.settings import Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
#: What it says where a process shall see no card.
HIDDEN = ("", "-1", "NoDevFiles")


@dataclass(frozen=True)
class Card:
    """One card, or one MIG slice of a card."""

    #: Names the card in `CUDA_VISIBLE_DEVICES`, whatever order CUDA counts cards in.
    uuid: str
    name: str
    memory_bytes: int
    #: Its number in `nvidia-smi`; None for a slice.
    index: int | None = None
    #: The CPUs nearest to it that this process may run on; empty where the driver does not tell.
    cpus: frozenset[int] = frozenset()

    def __str__(self) -> str:
        number = "" if self.index is None else f"{self.index}: "
        return f"{number}{self.name}, {self.memory_bytes / (1 << 30):.0f} GiB, {self.uuid[:12]}"


@dataclass(frozen=True)
class CardLoad:
    """What all processes together do with a card now."""

    #: NVML's utilisation, 0 to 1: the part of its last sixth of a second to second in which a kernel ran.
    busy: float
    used_bytes: int


@dataclass(frozen=True)
class FoundCards:
    cards: tuple[Card, ...]
    #: Why there are none; empty where there are some.
    reason: str = ""
    #: Whether a card is here all the same, or was given to this process, and only cannot be used.
    amiss: bool = False


class DriverBroken(Unavailable):
    """The driver is there, and does not answer as it should."""


class Driver(Protocol):
    """What this module asks of NVML."""

    def cards(self) -> list[Card]:
        """Every card of the machine, in the order of `nvidia-smi`."""
        ...

    def slice(self, uuid: str) -> Card | None:
        """The MIG slice of that name, if there is one."""
        ...


class _Nvml:
    """The driver's library, once it is initialised."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def cards(self) -> list[Card]:
        found = []
        for index in range(self._library.nvmlDeviceGetCount()):
            try:
                handle = self._library.nvmlDeviceGetHandleByIndex(index)
                found.append(self._describe(handle, handle, index))
            except self._library.NVMLError:  # One that fell off the bus, or that a container may not use.
                continue
        return found

    def slice(self, uuid: str) -> Card | None:
        try:
            handle = self._library.nvmlDeviceGetHandleByUUID(uuid)
            return self._describe(handle, self._library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
        except self._library.NVMLError:
            return None

    def load(self, card: Card) -> CardLoad:
        """What the card does now."""
        handle = self._library.nvmlDeviceGetHandleByUUID(card.uuid)
        return CardLoad(
            busy=self._library.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            used_bytes=int(self._library.nvmlDeviceGetMemoryInfo(handle).used),
        )

    def _describe(self, handle: Any, whole: Any, index: int | None = None) -> Card:
        return Card(
            uuid=self._library.nvmlDeviceGetUUID(handle),
            name=self._library.nvmlDeviceGetName(handle),
            memory_bytes=int(self._library.nvmlDeviceGetMemoryInfo(handle).total),
            index=index,
            cpus=self._near(whole) & os.sched_getaffinity(0),
        )

    def _near(self, handle: Any) -> frozenset[int]:
        words = -(-os.sysconf("SC_NPROCESSORS_CONF") // 64)
        try:
            return from_words(self._library.nvmlDeviceGetCpuAffinity(handle, words))
        except self._library.NVMLError:
            return frozenset()


@contextmanager
def nvml() -> Iterator[_Nvml]:
    """The driver of this machine.

    Raises:
        Unavailable: the package or the driver is not there.
        DriverBroken: the driver is.
    """
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("the package nvidia-ml-py is not installed") from error
    absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise (Unavailable if error.value in absent else DriverBroken)(f"NVML says: {error}") from error
    try:
        yield _Nvml(pynvml)
    except pynvml.NVMLError as error:
        raise DriverBroken(f"NVML says: {error}") from error
    finally:
        pynvml.nvmlShutdown()


def nodes() -> bool:
    """Whether the kernel's driver has made a device for a card."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def find_cards(
    environment: Mapping[str, str] = os.environ, driver: Callable[[], AbstractContextManager[Driver]] = nvml
) -> FoundCards:
    """The cards that `CUDA_VISIBLE_DEVICES` leaves to this process, in its order; or why there are none."""
    wanted = environment.get(VISIBLE)
    hidden = wanted in HIDDEN
    try:
        with driver() as opened:
            cards = opened.cards()
            seen = cards if wanted is None else _named(wanted.split(","), cards, opened)
    except Unavailable as error:
        return FoundCards((), str(error), amiss=not hidden and (isinstance(error, DriverBroken) or nodes()))
    if seen:
        return FoundCards(tuple(seen))
    reason = f"{VISIBLE}={wanted!r} names none of the cards here" if cards else "the driver finds none"
    return FoundCards((), reason, amiss=not hidden and (bool(cards) or nodes()))


def cards_for(settings: Settings) -> FoundCards:
    """The cards that workers with these settings may use, or why there are none."""
    return FoundCards((), "OCRPOOL_DEVICE is cpu") if settings.device == "cpu" else find_cards()


def _named(entries: Sequence[str], cards: Sequence[Card], driver: Driver) -> list[Card]:
    """What follows an entry that names no card is not seen: CUDA reads the list so."""
    seen: list[Card] = []
    for entry in map(str.strip, entries):
        if entry.startswith("MIG-"):
            card = driver.slice(entry)
            matches = [card] if card else []
        elif entry.startswith("GPU-"):
            matches = [card for card in cards if card.uuid.startswith(entry)]
        else:
            matches = [card for card in cards if str(card.index) == entry]
        if len(matches) != 1:
            break
        seen += [card for card in matches if card not in seen]
    return seen


@dataclass(frozen=True)
class InFlight:
    """How much a worker holds at a time."""

    spans: int
    pages: int


#: A card reads batches of dozens of pages; on a CPU, more pages than these only wait in memory.
ON_CPU, BESIDE_A_CARD = InFlight(spans=8, pages=16), InFlight(spans=64, pages=64)


def in_flight(settings: Settings, *, on_card: bool) -> InFlight:
    """What the settings say; where they are 0, what suits where the models run."""
    fitting = BESIDE_A_CARD if on_card else ON_CPU
    return InFlight(settings.spans_in_flight or fitting.spans, settings.pages_in_flight or fitting.pages)
