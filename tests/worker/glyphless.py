"""`python -m tests.worker.glyphless`: makes `worker/exporting/glyphless.ttf`, the font of the text layer's blanks."""

from __future__ import annotations

import io
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables._g_l_y_f import Glyph

from worker.exporting import text_layer
from worker.exporting.text_layer import ASCENT, DESCENT, GLYPHS, UNITS

#: Seconds since 1904, so that the same font has the same bytes.
MADE_AT = 0


def blank(width: int) -> Glyph:
    """A point where the letter begins and one where it ends. Three in one place are the least that is a contour."""
    pen = TTGlyphPen(None)
    for corner in ((0, DESCENT), (width, ASCENT)):
        pen.moveTo(corner)
        for _ in range(3):  # The last is that where it closes.
            pen.lineTo(corner)
        pen.closePath()
    return pen.glyph(dropImpliedOnCurves=False)


def made() -> bytes:
    """The font's file."""
    names = [".notdef", "space", *(f"blank{width}" for width in GLYPHS if GLYPHS[width] > 1)]
    widths = dict(zip(names, (UNITS, *GLYPHS), strict=True))
    builder = FontBuilder(UNITS, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(" "): "space"})
    builder.setupGlyf({".notdef": Glyph(), **{name: blank(widths[name]) for name in names[1:]}})
    builder.setupHorizontalMetrics({name: (width, 0) for name, width in widths.items()})
    builder.setupHorizontalHeader(ascent=ASCENT, descent=DESCENT)
    builder.setupNameTable({"familyName": "Glyphless", "styleName": "Regular", "psName": "Glyphless"})
    builder.setupOS2(sTypoAscender=ASCENT, sTypoDescender=DESCENT, usWinAscent=ASCENT, usWinDescent=-DESCENT)
    builder.setupPost(keepGlyphNames=False)
    builder.font["head"].created = builder.font["head"].modified = MADE_AT
    builder.font.recalcTimestamp = False
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


if __name__ == "__main__":
    (Path(text_layer.__file__).parent / "glyphless.ttf").write_bytes(made())
