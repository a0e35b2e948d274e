"""A run's document as tables in a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from worker.bench.document import (
    NOT_ASKED_FOR,
    Ablation,
    Ceiling,
    Comparison,
    Latency,
    Memory,
    NotRun,
    QueueCost,
    Report,
    Texts,
)
from worker.bench.meter import GIB
from worker.bench.plan import Section


def tables(report: Report) -> Iterator[Table | Text]:
    """Everything that was measured, a line for each section that could not be, and the goals."""
    for section in Section:
        part: object = getattr(report, section.value)
        match part:
            case NotRun(not_run=reason) if reason != NOT_ASKED_FOR:
                yield Text.assemble((section.value.capitalize(), "bold"), f": not run: {reason}")
            case Ablation():
                yield _ablation(part)
            case tuple():
                yield from (_comparison(one) for one in report.peers if isinstance(one, Comparison))
            case Latency():
                yield from (_latency(part), _stages(part))
            case Ceiling():
                yield _ceiling(part)
            case Texts():
                yield _texts(part)
            case QueueCost():
                yield _queue(part)
            case Memory():
                yield _memory(part)
    yield _goals(report)


def _table(title: str, *columns: str, caption: str = "") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", caption=caption, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _ablation(part: Ablation) -> Table:
    caption = (
        f"medians of {part.rounds} interleaved rounds; memory at its peak; latency: mean of {part.users} users; users "
        f"held: p95 within {part.bound_s:g} s, + where the search's time was up"
    )
    table = _table(
        "The stages, added one by one",
        *("stage", "device busy", "documents/s", "x", "mean latency, s", "users held", "pages/s per GiB", "GiB"),
        caption=caption,
    )
    first = 0.0
    for rung in part.rungs:
        if isinstance(rung, NotRun):
            table.add_row(rung.name, rung.not_run, style="dim")
            continue
        first = first or rung.documents_per_s
        table.add_row(
            rung.name,
            f"{rung.usage.busy:.0%} {rung.usage.device}",
            f"{rung.documents_per_s:.2f}",
            f"{rung.documents_per_s / first:.2f}",
            f"{rung.mean_latency_ms / 1000:.2f}",
            f"{rung.users_held}{'' if rung.users_settled else '+'}",
            f"{rung.pages_per_s_per_gib:.2f}",
            f"{rung.usage.peak_memory_bytes / GIB:.2f}",
        )
    return table


def _comparison(part: Comparison) -> Table:
    table = _table(
        f"Side by side: {part.title}",
        *("reader", "documents/s", "ocrpool is faster by", "character F1", "word F1"),
        caption=f"medians of {part.rounds} interleaved rounds",
    )
    for one in part.entrants:
        own = one is part.entrants[-1]
        table.add_row(
            one.name,
            f"{statistics.median(one.documents_per_s):.2f}",
            "" if own else f"{one.pool_is_faster_by:.2f}",
            *((f"{one.accuracy.character_f1:.4f}", f"{one.accuracy.word_f1:.4f}") if one.accuracy else ("", "")),
            style="bold" if own else "",
        )
    for left_out in part.missing:
        table.add_row(left_out.name, "not run", left_out.not_run, style="dim")
    return table


def _latency(part: Latency) -> Table:
    table = _table(
        "Latency of the pool, documents arriving by themselves (Poisson)",
        *("load", "offered/s", "documents/s", "documents", "p50, ms", "p95, ms", "p99, ms"),
        caption=f"load: of {part.saturation_per_s:.2f} documents/s, which the pool reads when it is never without work",
    )
    idle = part.idle
    spread = (f"{idle.documents}", f"{idle.p50_ms:.0f}", f"{idle.p95_ms:.0f}", f"{idle.p99_ms:.0f}")
    table.add_row("idle, one at a time", "", "", *spread)
    for point in part.points:
        one = point.latency
        table.add_row(
            f"{point.load:.0%}",
            f"{point.offered_per_s:.2f}",
            f"{point.documents_per_s:.2f}",
            *(f"{one.documents}", f"{one.p50_ms:.0f}", f"{one.p95_ms:.0f}", f"{one.p99_ms:.0f}"),
        )
    return table


def _stages(part: Latency) -> Table:
    table = _table("Where a page's time goes", "", "rasterise", "detect", "recognise")
    rows: list[tuple[str, dict[str, float], str]] = [
        ("a page alone, ms", part.idle_stage_ms, ".0f"),
        ("a page under load, waits included, ms", part.stage_ms, ".0f"),
    ]
    for name, figures, form in rows:
        table.add_row(name, *(f"{value:{form}}" for value in figures.values()))
    rows = [
        ("a batch in its predictor, ms", part.batch_run_ms, ".1f"),
        ("a batch's oldest item waited, ms", part.batch_wait_ms, ".1f"),
        ("items in a batch", part.mean_batch, ".1f"),
        ("batch fill", part.batch_fill, ".0%"),
    ]
    for name, figures, form in rows:
        table.add_row(name, "", *(f"{value:{form}}" for value in figures.values()))
    return table


def _ceiling(part: Ceiling) -> Table:
    runners = ", ".join(f"{count} for the {stage}" for stage, count in part.runners.items())
    caption = f"threads of {part.processes} process{'' if part.processes == 1 else 'es'}: {runners}"
    table = _table("The predictors alone, and how lines fill the recogniser", "figure", "value", caption=caption)
    table.add_row("the same tensors replayed, pages/s", _median(part.ceiling_per_s))
    table.add_row("the whole pool in turn with it, pages/s", _median(part.pool_per_s))
    table.add_row("pool / predictors alone", f"{part.pool_by_ceiling:.2f}", style="bold")
    lines = part.lines
    table.add_row(f"padding of {lines.lines} lines in {lines.batches} batches of {lines.shapes} shapes", "")
    table.add_row("  beside lines", f"{lines.width_padding:.1%}")
    table.add_row("  in empty slots", f"{lines.empty_slots:.1%}")
    table.add_row("  PaddleX's policy on the same lines", f"{lines.paddlex_padding:.1%}")
    return table


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}"


def _texts(part: Texts) -> Table:
    table = _table("What was read", "figure", "value")
    if part.accuracy is not None:
        table.add_row(f"character F1 on {part.accuracy.pages} pages", f"{part.accuracy.character_f1:.4f}")
        table.add_row("word F1", f"{part.accuracy.word_f1:.4f}")
    else:
        table.add_row("F1", "no page has a text beside it")
    table.add_row(f"of {part.lines} lines identical, alone and in batches", f"{part.identical:.2%}")
    return table


def _queue(part: QueueCost) -> Table:
    table = _table("The queue alone: a predictor that answers at once", "figure", "value")
    table.add_row(f"cost a page, median of {part.cost.documents}, ms", f"{part.cost.p50_ms:.1f}")
    table.add_row("cost a page, p99, ms", f"{part.cost.p99_ms:.1f}")
    table.add_row(f"pages/s, {part.pages:,} pages", f"{part.pages_per_s:.0f}")
    return table


def _memory(part: Memory) -> Table:
    title = f"Memory over {part.pages:,} mixed pages (predictor: {part.predictor})"
    table = _table(title, "figure", "MB")
    table.add_row("workers and decoders, at the start and after each tenth", _megabytes(part.rss_bytes))
    table.add_row("growth since the first fifth", f"{part.growth_bytes / 1e6:+.0f}")
    if any(part.card_bytes):
        table.add_row("cards, likewise", _megabytes(part.card_bytes))
        table.add_row("growth since the first fifth", f"{part.card_growth_bytes / 1e6:+.0f}")
    return table


def _megabytes(series: Sequence[int]) -> str:
    return " ".join(f"{one / 1e6:.0f}" for one in series)


def _goals(report: Report) -> Table:
    """All of them for a whole run; of a part of one, those that it measured."""
    table = _table("Goals", "goal", "wanted", "measured", "")
    marks = {True: Text("met", "green"), False: Text("not met", "red"), None: Text("not measured", "dim")}
    whole = all(getattr(report, section.value) != NotRun(not_run=NOT_ASKED_FOR) for section in Section)
    for goal in report.goals:
        if whole or goal.met is not None:
            measured = goal.measured if goal.met is not None else ""
            table.add_row(goal.name, goal.wanted, measured, marks[goal.met])
    return table
