"""Text that is found, marked and copied, and not seen: content for a PDF page.

Every letter is a blank of about its width, of one font that has nothing else; what it stands for is said by the font's
map to Unicode. So any script works, and nothing has to be installed.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pikepdf
from pikepdf import Array, Dictionary, Name, Stream

from worker.exporting import Line, Point

#: From pixels of the upright page to the PDF's own coordinates, in points.
Place = Callable[[float, float], Point]

# Python loads an encoding when it is first used: here, while files may still be opened. pypdfium2 uses the other one.
UTF_16, _ = codecs.lookup("utf-16-be"), codecs.lookup("utf-16-le")

#: A font of blanks, of 1,000 units an em: each is two points, one below the line where it begins and one above it
#: where it ends, so that it has an extent for readers that look for it, and paints nothing for those that would.
FONT = (Path(__file__).parent / "glyphless.ttf").read_bytes()
#: Width of a blank -> its place in the font.
GLYPHS = {250: 1, 330: 2, 560: 3, 780: 4, 1000: 5}
UNITS = 1000
#: How far letters reach above and below their line, in units: a quad holds both.
ASCENT, DESCENT = 800, -200
INVISIBLE = 3
SPACE = " "
#: Most entries of one block of a character map (Adobe Technical Note 5014).
BLOCK = 100


def turned_box(box: tuple[float, float, float, float], rotation: int, width: int, height: int) -> Place:
    """Where the pixels of a page of `width` x `height` lie that shows `box` (left, bottom, right, top), turned by
    `rotation` degrees clockwise."""
    left, bottom, right, top = box

    def place(x: float, y: float) -> Point:
        u, v = x / width, y / height
        u, v = {0: (u, 1 - v), 90: (v, u), 180: (1 - u, v), 270: (1 - v, 1 - u)}[rotation]
        return left + u * (right - left), bottom + v * (top - bottom)

    return place


class InvisibleFont:
    """One font for all letters of a document; `resource` is the PDF's object."""

    #: Stands in content for the name that a page gives the font.
    PLACEHOLDER = b"/Font#"

    def __init__(self, pdf: pikepdf.Pdf, widths: Mapping[str, int]) -> None:
        """`widths` of every letter that is to be written, and of the space: each one of `GLYPHS`."""
        self._widths = widths
        self._codes = {letter: code for code, letter in enumerate(widths, 1)}
        self.resource = pdf.make_indirect(
            Dictionary(
                Type=Name.Font,
                Subtype=Name.Type0,
                BaseFont=Name.Glyphless,
                Encoding=Name("/Identity-H"),
                DescendantFonts=Array([self._descendant(pdf)]),
                ToUnicode=Stream(pdf, "\n".join(self._to_unicode()).encode("ascii")),
            )
        )

    def encode(self, text: str) -> str:
        """The text's codes as a hexadecimal string."""
        return "".join(f"{self._codes[letter]:04x}" for letter in text)

    def width(self, text: str) -> float:
        """The text's length at size 1."""
        return sum(self._widths[letter] for letter in text) / UNITS

    def _descendant(self, pdf: pikepdf.Pdf) -> pikepdf.Object:
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name.Glyphless,
            Flags=4,  # Its letters are none of the standard ones.
            FontBBox=[0, DESCENT, UNITS, ASCENT],
            ItalicAngle=0,
            Ascent=ASCENT,
            Descent=DESCENT,
            CapHeight=ASCENT,
            StemV=80,
            FontFile2=Stream(pdf, FONT, Length1=len(FONT)),
        )
        glyphs = (GLYPHS[width].to_bytes(2, "big") for width in self._widths.values())
        return pdf.make_indirect(
            Dictionary(
                Type=Name.Font,
                Subtype=Name.CIDFontType2,
                BaseFont=Name.Glyphless,
                CIDSystemInfo=Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
                FontDescriptor=pdf.make_indirect(descriptor),
                CIDToGIDMap=Stream(pdf, b"\0\0" + b"".join(glyphs)),
                W=Array([1, Array(list(self._widths.values()))]),
            )
        )

    def _to_unicode(self) -> Iterator[str]:
        yield "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def /CMapName /Read def"
        yield "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def"
        yield "1 begincodespacerange <0000> <ffff> endcodespacerange"
        codes = list(self._codes.items())
        for start in range(0, len(codes), BLOCK):
            block = codes[start : start + BLOCK]
            yield f"{len(block)} beginbfchar"
            yield from (f"<{code:04x}> <{UTF_16.encode(letter)[0].hex()}>" for letter, code in block)
            yield "endbfchar"
        yield "endcmap CMapName currentdict /CMap defineresource pop end end"


def text_layer(lines: Sequence[Line], place: Place, font: InvisibleFont) -> bytes:
    """The lines as a page's content, each stretched over its quad."""
    shown = (_line(line, place, font) for line in lines)
    return "\n".join(["q BT", f"{INVISIBLE} Tr", *filter(None, shown), "ET Q\n"]).encode("ascii")


def _line(line: Line, place: Place, font: InvisibleFont) -> str:
    a, b, c, d = (place(x, y) for x, y in line.quad)
    along = ((b[0] - a[0] + c[0] - d[0]) / 2, (b[1] - a[1] + c[1] - d[1]) / 2)
    size = (math.dist(a, d) + math.dist(b, c)) / 2
    length, width = math.hypot(*along), font.width(line.text)
    if not (length and size and width):
        return ""
    cosine, sine = along[0] / length, along[1] / length
    share = -DESCENT / UNITS
    x, y = d[0] + (a[0] - d[0]) * share, d[1] + (a[1] - d[1]) * share
    stretch = 100 * length / (size * width)
    # The space ends the line's last word for readers that put lines together.
    text = font.encode(line.text + SPACE)
    return (
        f"{font.PLACEHOLDER.decode()} {size:.3f} Tf {stretch:.3f} Tz "
        f"{cosine:.5f} {sine:.5f} {-sine:.5f} {cosine:.5f} {x:.3f} {y:.3f} Tm <{text}> Tj"
    )
