"""What a document is, told by its first bytes; its name is never asked."""

from __future__ import annotations

from producer.errors import CorruptDocument, UnsupportedMediaType
from producer.job import MediaType

#: Readers accept a PDF header that begins within the first 1,024 bytes (ISO 32000-1, annex H, note 13).
PDF_HEADER_WITHIN_BYTES = 1024
PDF_HEADER = b"%PDF-"

#: How many bytes of a document `sniff` looks at.
SNIFF_BYTES = PDF_HEADER_WITHIN_BYTES + len(PDF_HEADER)

BEGINNINGS: dict[MediaType, tuple[bytes, ...]] = {
    MediaType.PNG: (b"\x89PNG\r\n\x1a\n",),
    MediaType.JPEG: (b"\xff\xd8\xff",),
    # Byte order and version number, of TIFF and of BigTIFF.
    MediaType.TIFF: (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    MediaType.GIF: (b"GIF87a", b"GIF89a"),
}
#: Sizes of the bitmap headers that follow a BMP's file header: two letters alone would take in any text.
BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff(head: bytes) -> MediaType:
    """The type of the document that begins with `head`, of which the first `SNIFF_BYTES` are enough.

    Raises:
        CorruptDocument: there are no bytes.
        UnsupportedMediaType: the bytes are no document that the pool reads.
    """
    if not head:
        raise CorruptDocument("The document is empty.")
    if media_type := _image_type(head):
        return media_type
    if PDF_HEADER in head[:SNIFF_BYTES]:
        return MediaType.PDF
    raise UnsupportedMediaType("The bytes are neither a PDF nor a PNG, JPEG, TIFF, WebP, BMP or GIF image.")


def _image_type(head: bytes) -> MediaType | None:
    for media_type, beginnings in BEGINNINGS.items():
        if head.startswith(beginnings):
            return media_type
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return MediaType.WEBP
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in BMP_HEADER_SIZES:
        return MediaType.BMP
    return None
