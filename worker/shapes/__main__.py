"""`ocrpool shapes fit`: fit the lists of shapes to documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from producer.cli import run
from producer.errors import InvalidRequest
from producer.printing import count, err, out
from producer.settings import Settings, as_text
from worker.shapes import Device, ShapeList, resolve
from worker.shapes.fit import WidthFits, fit_sizes, fit_widths, width_candidates, with_common
from worker.shapes.histogram import Histogram, Survey
from worker.shapes.padding import Padding, line_padding, page_padding

#: Bars of the text histogram, and their length in characters.
BARS, BAR_LENGTH = 16, 40

app = typer.Typer(name="ocrpool shapes", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


class Format(StrEnum):
    TEXT = "text"
    ENV = "env"
    JSON = "json"


@dataclass(frozen=True)
class Fit:
    """What was fitted, and what it saves."""

    histogram: Histogram
    before: ShapeList
    after: ShapeList
    #: The best list of each length, of which `after` holds one.
    widths: WidthFits

    def lines(self, shapes: ShapeList) -> Padding:
        return line_padding(self.histogram.lines, sorted(shapes.recogniser_widths), sorted(shapes.recogniser_batches))

    def pages(self, shapes: ShapeList) -> Padding:
        return page_padding(self.histogram.sizes, shapes.detector_sizes, sorted(shapes.detector_batches))

    @property
    def paddlex(self) -> float:
        """Padding of PaddleX's policy on the same lines."""
        real = sum(min(width, max(self.after.recogniser_widths)) * n for width, n in self.histogram.lines.items())
        return 1 - real / self.histogram.paddlex_columns if self.histogram.paddlex_columns else 0.0

    @property
    def curve(self) -> dict[int, float]:
        """Padding of the best list of each length."""
        real = self.lines(self.after).real
        pairs = zip(self.widths.lists, self.widths.columns, strict=True)
        return {len(widths): 1 - real / columns for widths, columns in pairs}

    @property
    def variables(self) -> dict[str, str]:
        return {
            "OCRPOOL_DETECTOR_SIZES": as_text(self.after.detector_sizes),
            "OCRPOOL_RECOGNISER_WIDTHS": as_text(self.after.recogniser_widths),
        }


@app.callback()
def _group() -> None:
    """Shapes: the fixed tensor sizes that the models see."""


@app.command()
def fit(
    folder: Annotated[
        Path | None, typer.Argument(help="Documents (PDFs and images), in folders below too.", show_default=False)
    ] = None,
    *,
    widths: Annotated[int, typer.Option(min=1, max=200, help="Most widths of the recogniser.")] = 16,
    sizes: Annotated[int, typer.Option(min=1, max=64, help="Most page sizes of the detector.")] = 8,
    min_width: Annotated[int, typer.Option(min=0, max=3200, help="Narrowest width; 0: 64, and then from 112 on.")] = 0,
    worth: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the recogniser's work that each width must be worth.")
    ] = 0.0,
    device: Annotated[Device, typer.Option(help="Whose list it is compared with.")] = "cpu",
    histogram: Annotated[
        Path | None, typer.Option(help="Write what was counted to this file.", show_default=False)
    ] = None,
    from_histogram: Annotated[
        list[Path] | None,
        typer.Option(help="Count what this file holds, too; may be given for several machines.", show_default=False),
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="text, env (lines to paste), or json.")
    ] = Format.TEXT,
) -> None:
    """Fit the lists of shapes to documents, and print them with the padding that they leave."""
    settings = Settings()
    before = resolve(settings, device)
    counted = _count(settings, before, folder, from_histogram or [])
    if histogram is not None:
        counted.save(histogram)
    if not counted.lines:
        raise InvalidRequest("The documents show no line of text to fit the widths to.")
    fits = fit_widths(counted.lines, widths, width_candidates(min_width))
    after = ShapeList(
        detector_sizes=fit_sizes(with_common(counted.sizes), sizes),
        detector_batches=before.detector_batches,
        recogniser_widths=fits.best(worth),
        recogniser_batches=before.recogniser_batches,
    )
    fitted = Fit(counted, before, after, fits)
    if format is Format.JSON:
        typer.echo(json.dumps(_as_json(fitted)))
        return
    if format is Format.TEXT:
        _print(fitted)
    for name, value in fitted.variables.items():
        typer.echo(f"{name}={value}")


def _count(settings: Settings, shapes: ShapeList, folder: Path | None, files: list[Path]) -> Histogram:
    if folder is None and not files:
        raise InvalidRequest("Name a folder with documents, or a histogram with --from-histogram.")
    if folder is not None and not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder.")
    counted = Histogram.of([])
    for file in files:
        counted += Histogram.load(file)
    if folder is None:
        return counted

    def skipped(path: Path, why: str) -> None:
        err.print(f"skipped: {path.name}: {why}", markup=False)

    bar = Progress(
        *(TextColumn("Measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("pages"), TimeElapsedColumn()),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task("pages", total=None)
        survey = Survey(settings, shapes, skipped)
        pages = survey.pages(folder, lambda done, total: bar.update(task, completed=done, total=total))
        return counted + Histogram.of(pages)


def _print(fit: Fit) -> None:
    pages, lines = sum(fit.histogram.pages.values()), sum(fit.histogram.lines.values())
    out.print(f"{count(pages, 'page')}, {count(lines, 'line')}; width in pixels at a height of 48:")
    _print_bars(fit.histogram.lines)
    for title, padding in (("recogniser", fit.lines), ("detector", fit.pages)):
        before, after = padding(fit.before), padding(fit.after)
        out.print(f"{title + ' padding':<21}{before.share:.1%} with the list of now, {after.share:.1%} with this one")
        out.print(
            f"  + empty places     {before.empty_share:.1%}, {after.empty_share:.1%}, if all of them wait at once"
        )
    out.print(f"PaddleX's policy     {fit.paddlex:.1%} recogniser padding on the same lines")
    curve = fit.curve
    chosen = len(fit.after.recogniser_widths)
    shown = sorted({length for length in curve if length % 4 == 0} | {chosen})
    out.print("padding by widths    " + "  ".join(f"{length}: {curve[length]:.1%}" for length in shown))
    out.print()


def _print_bars(lines: Mapping[int, int]) -> None:
    """One bar for each of `BARS` ranges of equal length, the last of which holds what is wider, too."""
    ordered = sorted(lines)
    total, seen, widest = sum(lines.values()), 0, ordered[-1]
    for width in ordered:
        seen += lines[width]
        if seen >= 0.99 * total:
            widest = width
            break
    step = -(-widest // BARS)
    bars = [0] * BARS
    for width, number in lines.items():
        bars[min((width - 1) // step, BARS - 1)] += number
    for place, number in enumerate(bars):
        name = f"{place * step + 1}-{(place + 1) * step}" if place < BARS - 1 else f"{place * step + 1}-"
        out.print(f"{name:>10} {'█' * round(BAR_LENGTH * number / max(bars)):<{BAR_LENGTH}} {number}".rstrip())


def _as_json(fit: Fit) -> dict[str, object]:
    def padding(shapes: ShapeList) -> dict[str, float]:
        lines, pages = fit.lines(shapes), fit.pages(shapes)
        return {
            "recogniser": round(lines.share, 4),
            "recogniser_empty_places": round(lines.empty_share, 4),
            "detector": round(pages.share, 4),
            "detector_empty_places": round(pages.empty_share, 4),
        }

    return {
        "pages": sum(fit.histogram.pages.values()),
        "lines": sum(fit.histogram.lines.values()),
        "detector_sizes": fit.after.detector_sizes,
        "recogniser_widths": fit.after.recogniser_widths,
        "padding_before": padding(fit.before),
        "padding_after": padding(fit.after),
        "padding_paddlex": round(fit.paddlex, 4),
        "padding_by_widths": {length: round(share, 4) for length, share in fit.curve.items()},
    }


if __name__ == "__main__":
    run(app)
