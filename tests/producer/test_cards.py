"""Which cards a process may use: NVML's list, read through `CUDA_VISIBLE_DEVICES` as CUDA reads it."""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from producer import cards
from producer.cards import (
    BESIDE_A_CARD,
    HIDDEN,
    ON_CPU,
    Card,
    Driver,
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
        pass

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
        raise library.NVMLError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(NVMLError=library.NVMLError, nvmlInit=no_driver_loaded))
    assert find_cards({}).reason == "NVML says: Driver Not Loaded"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_cards({}).reason == "the package nvidia-ml-py is not installed"


def test_a_card_that_the_driver_does_not_tell_of_is_amiss_unless_it_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "nodes", lambda: True)
    assert find_cards({}, no_driver).amiss
    assert not any(find_cards({"CUDA_VISIBLE_DEVICES": hidden}, no_driver).amiss for hidden in HIDDEN)
    assert not find_cards({}, driver).amiss
    monkeypatch.setattr(cards, "nodes", lambda: False)
    assert not find_cards({}, no_driver).amiss


def test_more_is_in_flight_beside_a_card_unless_the_settings_say_how_much() -> None:
    for on_card, fitting in ((False, ON_CPU), (True, BESIDE_A_CARD)):
        assert in_flight(Settings(), on_card=on_card) == fitting
        assert in_flight(Settings(pages_in_flight=5), on_card=on_card) == InFlight(fitting.spans, 5)
        assert in_flight(Settings(spans_in_flight=3), on_card=on_card) == InFlight(3, fitting.pages)
