"""JPEG files on a card. NVIDIA's decoder is a stand-in here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from producer.errors import EngineOutOfMemory
from producer.job import MediaType
from producer.settings import Settings
from tests.documents import SAMPLES
from tests.worker.card_stand_in import Stream
from worker import kernels
from worker.device import DeviceFailed
from worker.jpegs import CardJpegs

RECEIPT = SAMPLES / "receipt.jpg"


class Sandbox:
    """The sandboxed decoders; it notes what they are asked for."""

    def __init__(self) -> None:
        self.asked: list[Path] = []

    @contextmanager
    def page(self, path: Path, media_type: MediaType, page: int) -> Iterator[str]:
        self.asked.append(path)
        yield "from the sandbox"


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox()


@pytest.fixture
def jpegs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> CardJpegs:
    codec = SimpleNamespace(
        Decoder=lambda: SimpleNamespace(decode=lambda stream, params: "decoded"),
        DecodeParams=lambda color_spec: None,
        ColorSpec=SimpleNamespace(SRGB=1),
        CodeStream=lambda content: SimpleNamespace(codec_name="jpeg", num_channels=3, width=461, height=933),
    )
    nvidia = ModuleType("nvidia")
    nvidia.nvimgcodec = codec  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvidia", nvidia)
    rasteriser: Any = sandbox
    return CardJpegs(rasteriser, Settings(max_page_pixels=500_000))


def read(jpegs: CardJpegs) -> Any:
    with jpegs.page(RECEIPT, MediaType.JPEG, 1) as page:
        return page


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (MemoryError("no room"), EngineOutOfMemory),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), EngineOutOfMemory),
        (RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"), DeviceFailed),
    ],
)
def test_a_card_without_room_or_that_fails_is_told(
    jpegs: CardJpegs, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, error: Exception, meant: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error

    cupy = ModuleType("cupy")
    vars(cupy).update(array=fail, cuda=SimpleNamespace(Stream=Stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    kernels._loading.cache_clear()

    with pytest.raises(meant):
        read(jpegs)
    assert not sandbox.asked


def test_what_the_decoder_does_not_read_the_sandbox_does(jpegs: CardJpegs, sandbox: Sandbox) -> None:
    def decode(stream: object, params: object) -> None:
        raise RuntimeError("nvImageCodec failure: unsupported")

    jpegs._decoder = SimpleNamespace(decode=decode)

    assert read(jpegs) == "from the sandbox"
    assert sandbox.asked == [RECEIPT]
