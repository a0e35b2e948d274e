"""A run's plots, as PNG files: throughput and latency against offered load, and the stages with their five figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.bench.document import Ablation, Latency, Report, Rung

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that differ in lightness, too, so that they part in grey print.
INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
MAIN, SECOND, THIRD = "#0b6e8a", "#e08e0b", "#b3261e"
PALE = "#a9cfd9"

_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
}


def draw(report: Report, folder: Path) -> Iterator[Path]:
    """Draw what was measured, and yield each file."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context(_STYLE):
        if isinstance(report.latency, Latency):
            yield _draw_load(report, report.latency, folder / "load.png")
        if isinstance(report.ablation, Ablation) and any(isinstance(rung, Rung) for rung in report.ablation.rungs):
            yield _draw_stages(report, report.ablation, folder / "stages.png")


def _caption(report: Report) -> str:
    where = ", ".join(report.machine.cards) or report.machine.processor
    return f"ocrpool {report.ocrpool}, {report.corpus}, {report.machine.cores} cores, {where}"


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path)
    plt.close(figure)
    return path


def _draw_load(report: Report, latency: Latency, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    figure.suptitle("The pool under documents that arrive by themselves", x=0.005, ha="left", weight="bold")
    offered = [point.offered_per_s for point in latency.points]
    most = max(*offered, latency.saturation_per_s) * 1.08
    left.axhline(latency.saturation_per_s, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    left.annotate(
        f"never without work: {latency.saturation_per_s:.3g}/s",
        (0, latency.saturation_per_s),
        xytext=(4, 4),
        textcoords="offset points",
        color=MUTED,
    )
    left.plot([0, most], [0, most], color=GRID, linewidth=2, zorder=1)
    left.annotate(
        "all that is offered", (most * 0.3, most * 0.3), xytext=(6, -14), textcoords="offset points", color=MUTED
    )
    left.plot(offered, [point.documents_per_s for point in latency.points], "o-", color=MAIN, linewidth=2)
    left.set(title="Throughput", ylabel="documents/s", xlim=(0, most), ylim=(0, most))

    right.axhline(latency.idle.p50_ms / 1000, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    right.annotate(
        "idle p50",
        (most, latency.idle.p50_ms / 1000),
        xytext=(-4, 4),
        textcoords="offset points",
        color=MUTED,
        ha="right",
    )
    # The largest marker lies lowest: of few documents, p99 and p95 are one.
    for name, colour, size in (("p99", THIRD, 9), ("p95", SECOND, 6.5), ("p50", MAIN, 6)):
        seconds = [getattr(point.latency, f"{name}_ms") / 1000 for point in latency.points]
        right.plot(offered, seconds, "o-", color=colour, linewidth=2, markersize=size, label=name)
    right.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
    right.set(title="Latency", ylabel="seconds", xlim=(0, most))
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("documents/s offered (Poisson)")
        axes.grid(color=GRID)
    figure.supxlabel(_caption(report), x=0.005, ha="left", fontsize=8, color=MUTED)
    return _save(figure, path)


def _draw_stages(report: Report, ablation: Ablation, path: Path) -> Path:
    import matplotlib.pyplot as plt

    rungs = [rung for rung in ablation.rungs if isinstance(rung, Rung)]
    panels = (
        ("Documents/s", [rung.documents_per_s for rung in rungs], "{:.3g}"),
        ("Device busy, %", [100 * rung.usage.busy for rung in rungs], "{:.0f}"),
        (f"Mean latency of\n{ablation.users} users, s", [rung.mean_latency_ms / 1000 for rung in rungs], "{:.3g}"),
        (f"Users held,\np95 within {ablation.bound_s:g} s", [float(rung.users_held) for rung in rungs], "{:.0f}"),
        ("Pages/s per GiB\nof memory", [rung.pages_per_s_per_gib for rung in rungs], "{:.3g}"),
    )
    height = 1.9 + 0.5 * len(rungs)
    figure, all_axes = plt.subplots(1, len(panels), figsize=(13, height), sharey=True, layout="constrained")
    figure.suptitle("The stages, added one by one", x=0.005, ha="left", weight="bold")
    for axes, (title, values, form) in zip(all_axes, panels, strict=True):
        _bars(axes, title, [rung.name for rung in rungs], values, form)
    figure.supxlabel(_caption(report), x=0.005, ha="left", fontsize=8, color=MUTED)
    return _save(figure, path)


def _bars(axes: Axes, title: str, names: list[str], values: list[float], form: str) -> None:
    colours = [PALE] * (len(values) - 1) + [MAIN]
    bars = axes.barh(range(len(values)), values, color=colours, height=0.62)
    axes.bar_label(bars, [form.format(value) for value in values], padding=4)
    axes.set_yticks(range(len(names)), names)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlim(0, max(*values, 1e-9) * 1.3)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
