# ruff: noqa: RUF001 (Chinese punctuation)
"""Makes the sample documents and their ground truth, all of them our own invention.

    python -m tests.samples.generate

needs `pillow`, `numpy` and `reportlab`, and the fonts of the Debian packages `fonts-liberation`, `fonts-dejavu-core`
and `fonts-wqy-zenhei` (whose licences allow to embed the subsets that `report.pdf` carries). The outputs are committed,
so tests need none of this. Beside each document lies its text, `.txt` in place of its suffix: row by row, pages
separated by a form feed; columns follow one another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.samples.texts import (
    CONTENTS,
    FAX,
    FINDINGS,
    INVOICE_ITEMS,
    LETTER,
    MINUTES_ZH,
    NOTES_ZH,
    RECEIPT,
    RULE,
    SUMMARY,
    SUMMARY_ZH,
)

HERE = Path(__file__).parent
FONTS = {
    "serif": "/usr/share/fonts/truetype/liberation/LiberationSerif-Regular.ttf",
    "serif-bold": "/usr/share/fonts/truetype/liberation/LiberationSerif-Bold.ttf",
    "sans": "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "sans-bold": "/usr/share/fonts/truetype/liberation/LiberationSans-Bold.ttf",
    "mono": "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf",
    "zh": "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
}
INK = (24, 24, 30)


@dataclass(frozen=True)
class Text:
    """A run of text; `y` is its baseline. Lengths are in points, from the top left corner."""

    x: float
    y: float
    text: str
    font: str = "sans"
    size: float = 11
    anchor: str = "l"
    colour: tuple[int, int, int] = INK


@dataclass
class Sheet:
    """One page: rows of text in reading order, and filled boxes (x, y, width, height, colour) below them."""

    width: float = 595
    height: float = 842
    rows: list[list[Text]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, tuple[int, int, int]]] = field(default_factory=list)

    def row(self, *texts: Text) -> None:
        self.rows.append(list(texts))

    def paragraph(self, x: float, y: float, lines: list[str], *, leading: float, font: str, size: float) -> float:
        """Rows below one another; the baseline after the last."""
        for line in lines:
            if line:
                self.row(Text(x, y, line, font, size))
            y += leading
        return y

    @property
    def truth(self) -> str:
        return "\n".join(" ".join(word for text in row for word in text.text.split()) for row in self.rows)


def paint(sheet: Sheet, dpi: float, paper: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The sheet as an image."""
    scale = dpi / 72
    image = Image.new("RGB", (round(sheet.width * scale), round(sheet.height * scale)), paper)
    draw = ImageDraw.Draw(image)
    for x, y, width, height, colour in sheet.boxes:
        draw.rectangle((x * scale, y * scale, (x + width) * scale, (y + height) * scale), fill=colour)
    for text in (text for row in sheet.rows for text in row):
        font = ImageFont.truetype(FONTS[text.font], round(text.size * scale))
        draw.text((text.x * scale, text.y * scale), text.text, text.colour, font, anchor=f"{text.anchor}s")
    return image


def photographed(
    image: Image.Image, *, degrees: float, blur: float, noise: float, shade: float, seed: int
) -> Image.Image:
    """The image as a hasty camera or scanner sees it: askew, soft, grainy and darker towards one corner."""
    paper = image.getpixel((2, 2))
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=paper).filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(turned, dtype=np.float32)
    height, width, _ = pixels.shape
    falloff = np.linspace(0, 1, height)[:, None, None] * 0.6 + np.linspace(0, 1, width)[None, :, None] * 0.4
    grain = np.random.default_rng(seed).normal(0, noise, (height, width, 1))
    return Image.fromarray(np.clip(pixels * (1 - shade * falloff) + grain, 0, 255).astype(np.uint8))


def invoice() -> Sheet:
    sheet = Sheet()
    green, pale = (28, 84, 72), (226, 238, 234)
    sheet.boxes += [(0, 0, 595, 14, green), (50, 276, 495, 24, pale), (50, 520, 495, 1, green)]
    sheet.row(
        Text(50, 70, "Harrow & Finch Stationers", "serif-bold", 22, colour=green),
        Text(545, 70, "INVOICE", "sans-bold", 20, "r"),
    )
    sheet.row(Text(50, 90, "14 Millrace Lane, Ostbury OB3 7QT", size=10))
    sheet.row(Text(50, 104, "accounts@harrowfinch.example", size=10))
    labels = [("Invoice no.", "HF-20418"), ("Date", "17 March 2025"), ("Due", "16 April 2025")]
    addressee = ["Bill to", "Bluepine Coffee House", "Attn. Marta Olsen", "2 Quayside, Ostbury OB1 1AA"]
    for number, line in enumerate(addressee):
        texts = [Text(50, 150 + 18 * number, line, "sans-bold" if number == 0 else "sans")]
        if number < len(labels):
            name, value = labels[number]
            texts += [Text(360, 150 + 18 * number, name, "sans-bold"), Text(545, 150 + 18 * number, value, anchor="r")]
        sheet.row(*texts)
    _table(sheet)
    sheet.row(Text(50, 650, "Please pay within 30 days to account 4471 0093, sort code 20-88-15."))
    sheet.row(Text(50, 668, "Goods remain our property until they are paid in full."))
    sheet.row(Text(50, 800, "Harrow & Finch Stationers Ltd. VAT registration 558 2094 61", size=9))
    return sheet


def _table(sheet: Sheet) -> None:
    def cells(y: float, values: tuple[str, str, str, str], font: str = "sans") -> None:
        places = ((58, "l"), (360, "r"), (450, "r"), (537, "r"))
        sheet.row(*(Text(x, y, value, font, 11, anchor) for (x, anchor), value in zip(places, values, strict=True)))

    cells(292, ("Description", "Quantity", "Unit price", "Amount"), "sans-bold")
    y, total = 324.0, 0
    for name, quantity, pence in INVOICE_ITEMS:
        cells(y, (name, str(quantity), _money(pence), _money(quantity * pence)))
        y, total = y + 26, total + quantity * pence
    tax = total // 5
    for number, (name, amount) in enumerate((("Subtotal", total), ("VAT 20%", tax), ("Total", total + tax))):
        font = "sans-bold" if name == "Total" else "sans"
        sheet.row(
            Text(450, 548 + 22 * number, name, font, anchor="r"),
            Text(537, 548 + 22 * number, _money(amount), font, anchor="r"),
        )


def _money(pence: int) -> str:
    return f"£{pence // 100:,}.{pence % 100:02}"


def receipt() -> Sheet:
    sheet = Sheet(width=300, height=40 + 17 * len(RECEIPT))
    for number, row in enumerate(RECEIPT):
        y = 36 + 17 * number
        left, _, right = row.partition("|")
        if row == RULE:
            sheet.boxes.append((28, y - 4, 244, 0.8, INK))
        elif right:
            sheet.row(Text(28, y, left, "mono", 10.5), Text(272, y, right, "mono", 10.5, "r"))
        elif left:
            sheet.row(Text(150, y, left, "mono", 10.5, "m"))
    return sheet


def notes(title: str, lines: list[str]) -> Sheet:
    sheet = Sheet(width=460, height=110 + 27 * len(lines))
    sheet.boxes.append((40, 66, 380, 1, (150, 60, 50)))
    sheet.row(Text(40, 54, title, "zh", 20, colour=(150, 60, 50)))
    sheet.paragraph(40, 98, lines, leading=27, font="zh", size=14)
    return sheet


def letter(lines: list[str], font: str = "serif", size: float = 14) -> Sheet:
    sheet = Sheet()
    sheet.paragraph(70, 90, lines, leading=size * 1.55, font=font, size=size)
    return sheet


def report() -> list[Sheet]:
    """Three pages with a text layer (the second in two columns, the third in Chinese); two more are to be scanned."""
    cover = Sheet()
    cover.boxes.append((70, 178, 455, 3, (20, 70, 130)))
    cover.row(Text(70, 130, "Lumen Tidal Energy", "sans", 14, colour=(20, 70, 130)))
    cover.row(Text(70, 165, "Skerry Sound Pilot: Year One", "serif-bold", 26))
    y = cover.paragraph(70, 225, SUMMARY, leading=22, font="serif", size=14)
    cover.paragraph(70, y + 20, CONTENTS, leading=23, font="sans", size=12.5)

    columns = Sheet()
    columns.row(Text(70, 90, "2 Findings", "serif-bold", 18))
    for x, lines in ((70.0, FINDINGS[: len(FINDINGS) // 2]), (315.0, FINDINGS[len(FINDINGS) // 2 :])):
        columns.paragraph(x, 130, lines, leading=20, font="serif", size=13)

    chinese = Sheet()
    chinese.row(Text(70, 90, "3 中文摘要", "zh", 18))
    chinese.paragraph(70, 130, SUMMARY_ZH, leading=32, font="zh", size=16)
    return [cover, columns, chinese, letter(LETTER), notes_page()]


def notes_page() -> Sheet:
    sheet = Sheet()
    sheet.row(Text(70, 100, "附录：会议纪要", "zh", 20))
    sheet.paragraph(70, 150, MINUTES_ZH, leading=36, font="zh", size=17)
    return sheet


def print_report(path: Path, sheets: list[Sheet]) -> None:
    """The first three sheets as text, the others as scans."""
    from reportlab.lib.utils import ImageReader  # type: ignore[import-untyped]
    from reportlab.pdfbase import pdfmetrics  # type: ignore[import-untyped]
    from reportlab.pdfbase.ttfonts import TTFont  # type: ignore[import-untyped]
    from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

    for name, file in FONTS.items():
        pdfmetrics.registerFont(TTFont(name, file))
    canvas = Canvas(str(path), pagesize=(595, 842), invariant=1, pageCompression=1)
    canvas.setTitle("Skerry Sound Pilot: Year One")
    for number, sheet in enumerate(sheets):
        if number < 3:
            for x, y, width, height, colour in sheet.boxes:
                canvas.setFillColorRGB(*(part / 255 for part in colour))
                canvas.rect(x, 842 - y - height, width, height, stroke=0, fill=1)
            for text in (text for row in sheet.rows for text in row):
                canvas.setFillColorRGB(*(part / 255 for part in text.colour))
                canvas.setFont(text.font, text.size)
                canvas.drawString(text.x, 842 - text.y, text.text)
        else:
            scan = path.with_name(f"scan-{number}.jpg")
            painted = paint(sheet, 150, (250, 248, 243)).convert("L").convert("RGB")
            askew = photographed(painted, degrees=0.6 - number % 2, blur=0.6, noise=3, shade=0.06, seed=number)
            askew.convert("L").save(scan, quality=60)
            canvas.drawImage(ImageReader(str(scan)), 0, 0, 595, 842)
            scan.unlink()
        canvas.showPage()
    canvas.save()


def main() -> None:
    def tell(name: str, *sheets: Sheet) -> None:
        (HERE / f"{name}.txt").write_text("\f".join(f"{sheet.truth}\n" for sheet in sheets), encoding="utf-8")

    paint(sheet := invoice(), 144).quantize(64).save(HERE / "invoice.png", optimize=True)
    tell("invoice", sheet)

    slip = paint(sheet := receipt(), 190, (243, 240, 232))
    photo = photographed(slip, degrees=1.6, blur=0.9, noise=5, shade=0.22, seed=1)
    photo.save(HERE / "receipt.jpg", quality=72)
    tell("receipt", sheet)

    paint(sheet := notes("产品试用记录", NOTES_ZH), 160).quantize(32).save(HERE / "notes_zh.png", optimize=True)
    tell("notes_zh", sheet)

    print_report(HERE / "report.pdf", sheets := report())
    tell("report", *sheets)

    sheets = [letter(lines, "mono", 13) for lines in FAX]
    pages = [paint(sheet, 204).convert("1", dither=Image.Dither.NONE) for sheet in sheets]
    pages[0].save(HERE / "fax.tiff", compression="group4", save_all=True, append_images=pages[1:], dpi=(204, 204))
    tell("fax", *sheets)


if __name__ == "__main__":
    main()
