"""Which cards a process may use: NVML's list, read through `CUDA_VISIBLE_DEVICES` as CUDA reads it."""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from producer import cards
from producer.cards import (
    BESIDE_A_CARD,
    ON_CPU,
    Card,
    Driver,
    DriverBroken,
    FoundCards,
    InFlight,
    cards_for,
    find_cards,
    in_flight,
)
from producer.errors import Unavailable
from producer.settings import Settings

CARDS = [
    Card(f"GPU-{start}-0000", "NVIDIA H100", 80 << 30, number) for number, start in enumerate(("aa1", "aa2", "bb3"))
]
SLICE = Card("MIG-cc4", "NVIDIA H100 MIG 1g.10gb", 10 << 30)


class FakeDriver:
    def cards(self) -> list[Card]:
        return CARDS

    def slice(self, uuid: str) -> Card | None:
        return SLICE if uuid == SLICE.uuid else None


@contextmanager
def driver() -> Iterator[Driver]:
    yield FakeDriver()


def no_driver() -> AbstractContextManager[Driver]:
    raise Unavailable("no driver here")


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa1-0000", "GPU-aa2-0000", "GPU-bb3-0000"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", ["GPU-bb3-0000", "GPU-aa1-0000"]),
        (" 1 , 2", ["GPU-aa2-0000", "GPU-bb3-0000"]),
        ("1,7,0", ["GPU-aa2-0000"]),
        ("1,1", ["GPU-aa2-0000"]),
        ("GPU-bb3-0000,GPU-aa1-0000", ["GPU-bb3-0000", "GPU-aa1-0000"]),
        ("GPU-bb", ["GPU-bb3-0000"]),
        ("GPU-aa", []),
        ("0,GPU-zz,2", ["GPU-aa1-0000"]),
        ("MIG-cc4", ["MIG-cc4"]),
        ("MIG-cc4,0", ["MIG-cc4", "GPU-aa1-0000"]),
        ("MIG-none,0", []),
    ],
)
def test_the_variable_picks_and_orders_the_cards_as_in_cuda(visible: str | None, uuids: list[str]) -> None:
    found = find_cards({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, driver)

    assert [card.uuid for card in found.cards] == uuids
    assert bool(found.reason) == (not uuids)
    if visible and not uuids:
        assert visible in found.reason


def test_a_machine_without_driver_has_no_cards_and_says_why() -> None:
    assert find_cards({}, no_driver) == FoundCards((), "no driver here")


def nvml(**changes: Any) -> ModuleType:
    """A stand-in for the module `pynvml`, with two cards of which one has fallen off the bus."""

    class NVMLError(Exception):
        value = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH

    def handle(index: int) -> str:
        if index == 1:
            raise NVMLError("GPU is lost")
        return f"card {index}"

    def slice_handle(uuid: str) -> str:
        if uuid != "MIG-1":
            raise NVMLError("Not Found")
        return "slice"

    library = ModuleType("pynvml")
    functions = {
        "NVMLError": NVMLError,
        "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
        "NVML_ERROR_DRIVER_NOT_LOADED": 9,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetHandleByUUID": slice_handle,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda _: "card 0",
        "nvmlDeviceGetUUID": lambda of: {"slice": "MIG-1"}.get(of, "GPU-1"),
        "nvmlDeviceGetName": lambda _: "NVIDIA H200",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=141 << 30),
        "nvmlDeviceGetCpuAffinity": lambda of, words: (ctypes.c_ulonglong * words)(*[0xFFFF_FFFF] * words),
    }
    for name, value in {**functions, **changes}.items():
        setattr(library, name, value)
    return library


def test_nvml_tells_a_card_and_the_cpus_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())

    (card,) = find_cards({}).cards
    (part,) = find_cards({"CUDA_VISIBLE_DEVICES": "MIG-1"}).cards

    near = frozenset(cpu for cpu in os.sched_getaffinity(0) if cpu % 64 < 32)
    assert card == Card("GPU-1", "NVIDIA H200", 141 << 30, 0, near)
    assert part == Card("MIG-1", "NVIDIA H200", 141 << 30, None, near)
    assert not find_cards({"CUDA_VISIBLE_DEVICES": "MIG-2"}).cards


def test_the_stand_in_is_called_as_nvml_is() -> None:
    real, stand_in = import_module("pynvml"), nvml()
    for name, value in vars(stand_in).items():
        if name.startswith("nvml"):
            inspect.signature(getattr(real, name)).bind(*inspect.signature(value).parameters)


def test_a_pool_that_shall_use_the_cpu_has_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(cards_for(Settings()).cards) == 1
    assert cards_for(Settings(device="cpu")) == FoundCards((), "OCRPOOL_DEVICE is cpu")


def test_nvml_that_is_not_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()

    def no_driver_loaded() -> None:
        error = library.NVMLError("Driver Not Loaded")
        error.value = library.NVML_ERROR_DRIVER_NOT_LOADED
        raise error

    monkeypatch.setitem(sys.modules, "pynvml", nvml(NVMLError=library.NVMLError, nvmlInit=no_driver_loaded))
    assert find_cards({}).reason == "NVML says: Driver Not Loaded"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_cards({}).reason == "the package nvidia-ml-py is not installed"


class LostCards:
    """A driver whose cards have all fallen off the bus."""

    def cards(self) -> list[Card]:
        return []

    def slice(self, uuid: str) -> Card | None:
        return None


@contextmanager
def lost_cards() -> Iterator[Driver]:
    yield LostCards()


def broken_driver() -> AbstractContextManager[Driver]:
    raise DriverBroken("Driver/library version mismatch")


@pytest.mark.parametrize(
    ("visible", "opened", "nodes", "amiss"),
    [
        # No card, and no sign of one
        (None, no_driver, False, False),
        # A card that the driver, its library or the package for it keeps from being used
        (None, broken_driver, False, True),
        (None, no_driver, True, True),
        (None, lost_cards, True, True),
        # A card that was given to this process and is gone
        ("GPU-dd4", driver, True, True),
        ("3", driver, True, True),
        # Cards that are hidden on purpose
        ("", driver, True, False),
        ("-1", broken_driver, True, False),
        ("NoDevFiles", lost_cards, True, False),
        # Cards
        (None, driver, True, False),
    ],
)
def test_a_card_that_cannot_be_used_is_told_from_none(
    visible: str | None,
    opened: Callable[[], AbstractContextManager[Driver]],
    nodes: bool,
    amiss: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cards, "nodes", lambda: nodes)
    assert find_cards({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, opened).amiss == amiss


def test_more_is_in_flight_beside_a_card_unless_the_settings_say_how_much() -> None:
    for on_card, fitting in ((False, ON_CPU), (True, BESIDE_A_CARD)):
        assert in_flight(Settings(), on_card=on_card) == fitting
        assert in_flight(Settings(pages_in_flight=5), on_card=on_card) == InFlight(fitting.spans, 5)
        assert in_flight(Settings(spans_in_flight=3), on_card=on_card) == InFlight(3, fitting.pages)
