"""The tensor shapes that the models see: one short list for each kind of device, fitted to real documents.

`ocrpool shapes fit` makes such a list for documents of your own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from producer.settings import Settings, Size

#: What runs the models: ONNX Runtime or Paddle on a CPU, or either on a card.
Device = Literal["cpu", "cpu-paddle", "cuda"]


@dataclass(frozen=True)
class ShapeList:
    """Every combination of a size and a batch is one shape of a stage."""

    #: Height x width of a page, multiples of 32.
    detector_sizes: tuple[Size, ...]
    detector_batches: tuple[int, ...]
    #: Width of a line.
    recogniser_widths: tuple[int, ...]
    recogniser_batches: tuple[int, ...]


#: Widths that pad 5.8% on receipts (40 of ICDAR 2019 SROIE, 2,042 lines) and 2.9% on 14 pages of PDFs. ONNX Runtime
#: plans nothing for a shape on a CPU, so more cost nothing.
_MANY_WIDTHS = (
    *(64, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288, 304, 320, 336, 352, 368, 384, 400, 416, 432),
    *(464, 496, 528, 560, 592, 640, 656, 688, 736, 768, 832, 896, 976, 1200, 1328, 1424, 1504, 2048, 2560, 3200),
)
#: Widths that pad 9.9% on the receipts and 9.3% on the PDFs.
_FEW_WIDTHS = (64, 112, 144, 176, 208, 256, 304, 352, 416, 480, 560, 672, 768, 896, 1504, 3200)
#: Sizes that pad 5.5% of the receipts and 0.8% of the PDFs' pages. They were not fitted: lists that were pad the
#: receipts 2.1%, but give pages other scales, at which 0.6% fewer words were read, by F1.
_MANY_SIZES = (
    *((128, 960), (320, 320), (640, 448), (448, 640)),
    *((896, 640), (960, 576), (1056, 544), (1120, 512), (1216, 480), (1536, 384)),
    *((768, 768), (640, 896), (544, 1056), (480, 1216), (384, 1536)),
    *((1344, 960), (960, 1344), (1728, 736), (736, 1728)),
)
#: Those among them that the receipts and PDFs use, for the same padding, and enough for large and broad pages.
_FEW_SIZES = ((896, 640), (640, 896), (960, 576), (1120, 512), (544, 1056), (1344, 960), (960, 1344))
DEFAULTS: Mapping[Device, ShapeList] = {
    "cpu": ShapeList(_MANY_SIZES, (1,), _MANY_WIDTHS, (1, 2, 3, 4)),
    "cpu-paddle": ShapeList(_FEW_SIZES, (1,), _FEW_WIDTHS, (1, 2, 3, 4)),
    "cuda": ShapeList(_FEW_SIZES, (1, 8), _FEW_WIDTHS, (8, 64)),
}


def resolve(settings: Settings, device: Device) -> ShapeList:
    """The lists that the settings name; for each that they leave empty, the one fitted for the device."""
    fitted = DEFAULTS[device]
    return ShapeList(
        detector_sizes=settings.detector_sizes or fitted.detector_sizes,
        detector_batches=settings.detector_batches or fitted.detector_batches,
        recogniser_widths=settings.recogniser_widths or fitted.recogniser_widths,
        recogniser_batches=settings.recogniser_batches or fitted.recogniser_batches,
    )
