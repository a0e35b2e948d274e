"""The command line: `ocrpool --help`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from pydantic import ValidationError
from rich.markup import escape

from producer import dead_commands, key_commands, tenant_commands, webhook_commands
from producer.blobs import open_store
from producer.embedded import Embedded, answers, pool_of_its_own, running_pool
from producer.errors import DocumentError, FetchFailed, FetchForbidden, InvalidRequest, OcrpoolError, Unavailable
from producer.escaping import escaped
from producer.formats import Format as ResultFormat
from producer.job import ADDRESS, JobResult, JobStatus, Lane, ReadOptions
from producer.logs import configure_logs
from producer.plan import one_worker, plan_for_this_machine
from producer.printing import (
    Format,
    OutputFolder,
    count,
    err,
    fail,
    out,
    print_plan,
    print_result,
    print_status,
    refuse_to_print,
    report,
)
from producer.processes import asked_to_stop
from producer.producer import Producer
from producer.progress import PageProgress
from producer.redis_url import without_passwords
from producer.settings import Settings, as_shown, as_text, describe, explain, unknown_variables
from producer.workers import Workers

app = typer.Typer(
    name="ocrpool",
    help="Read text out of images and PDFs with a pool of OCR workers.\n\n"
    "Start with [bold]ocrpool read FILE[/bold]: it needs nothing else running. For a pool that stays up, run "
    "[bold]ocrpool up[/bold], and hand documents in from another terminal, from Python or over HTTP.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(dead_commands.commands, rich_help_panel="Jobs")
app.add_typer(webhook_commands.commands, rich_help_panel="Jobs")
for group in (key_commands, tenant_commands):
    app.add_typer(group.commands, rich_help_panel="Who may ask")

Files = Annotated[
    list[str],
    typer.Argument(
        help="PDFs and images (PNG, JPEG, TIFF, WebP, BMP, GIF), or the https:// or s3:// addresses of some.",
        show_default=False,
    ),
]
JobArgument = Annotated[str, typer.Argument(help="The job's id, as `ocrpool submit` printed it.", show_default=False)]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="text, or json.")]
ResultFormatOption = Annotated[
    ResultFormat,
    typer.Option(
        "--format",
        "-f",
        help="json is an object a line a document, jsonl a page a line, paddlex PaddleX's JSON; pdf is the document "
        "with its text, invisible; overlay a picture a page with its lines.",
    ),
]
Orientation = Annotated[bool, typer.Option("--orientation", help="Turn text lines that stand upside down.")]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Leave out lines that the recogniser trusts less.")]
PageRanges = Annotated[
    str, typer.Option("--pages", help="Read these pages alone, such as 2,4-6.", show_default=False, metavar="RANGES")
]
PdfText = Annotated[
    Literal["ocr", "auto", "verify"],
    typer.Option("--pdf-text", help="A PDF page's own text: no use, the result where sound, or compared with it."),
]

NoCache = Annotated[bool, typer.Option("--no-cache", help="Read it anew, even if the same was read a while ago.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write a file for each document into this folder.", show_default=False),
]
Alone = Annotated[bool, typer.Option("--embedded", help="Start a pool for this command even if one runs.")]
CpuWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="So many workers that share the CPU's cores, and no card. Without it: those of the cards, or one.",
        show_default=False,
    ),
]
Deadline = Annotated[float | None, typer.Option(help="Give up after this many seconds.", show_default=False)]

_STOPPING = "Stopping: pages that are being read are finished first."

READING, RUNNING, JOBS = "Read", "Run a pool", "Jobs"


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"ocrpool {version('ocrpool')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
]


@app.callback()
def _options(
    version: Version = False,
) -> None:
    pass


@app.command(rich_help_panel=READING)
def read(
    files: Files,
    format: ResultFormatOption = ResultFormat.TEXT,
    output: Output = None,
    orientation: Orientation = False,
    min_score: MinScore = 0.5,
    pages: PageRanges = "",
    no_cache: NoCache = False,
    pdf_text: PdfText = "ocr",
    embedded: Alone = False,
) -> None:
    """Read documents and print their text. Uses the running pool, or starts one for as long as it takes."""
    options = ReadOptions(
        orientation=orientation, min_score=min_score, pages=pages, pdf_text=pdf_text, cache=not no_cache
    )
    # Before a pool is started for nothing.
    for file in files:
        if not ADDRESS.match(file) and not Path(file).is_file():
            raise InvalidRequest(f"{escaped(file)} is not a file.")
    if not output:
        refuse_to_print(format, len(files))
    with _some_pool(embedded) as settings, Producer(settings) as producer:
        folder = OutputFolder(output, format, producer.results) if output else None
        started = time.monotonic()
        jobs: list[str] = []
        try:
            _submit_all(producer, files, options, jobs)
            done, written = _follow_all(producer, jobs, folder)
        except (KeyboardInterrupt, OcrpoolError):
            err.print(f"Cancelling {count(len(jobs), 'job')}.")
            for job_id in jobs:
                with suppress(OcrpoolError):
                    producer.cancel(job_id)
            raise
        elapsed_s = time.monotonic() - started
        for status, result in done:
            if folder is None:
                seconds = (status.finished_at or 0) - status.created_at
                print_result(result, format, producer.results, seconds=seconds if len(files) > 1 else None)
    read_pages = sum(len(result.pages) for _, result in done)
    rate = f"{read_pages / elapsed_s:.2f} pages/s"
    err.print(f"{count(len(done), 'document')}, {count(read_pages, 'page')} in {elapsed_s:.1f} s ({rate})")
    if not all([report(result.name, result) for _, result in done]) or len(done) < len(files) or not written:
        raise typer.Exit(1)


def _submit_all(producer: Producer, files: list[str], options: ReadOptions, jobs: list[str]) -> None:
    """Append the jobs' ids to `jobs`. A file that is refused is told and left out: the others are read."""
    for file in files:
        try:
            jobs.append(producer.submit(file, options).id)
        except (DocumentError, InvalidRequest, FetchForbidden, FetchFailed) as error:
            # What follows the `?` of an address may be a password of its own.
            name = Path(file.partition("?")[0] if ADDRESS.match(file) else file).name
            fail(escaped(f"{name}: {error} ({error.code})"))


def _follow_all(
    producer: Producer, jobs: list[str], folder: OutputFolder | None
) -> tuple[list[tuple[JobStatus, JobResult]], bool]:
    """Wait for the jobs, and return them in order, and whether all were written; with a folder, each is as soon as it
    is done."""
    done, written = {}, True
    with PageProgress(err, jobs) as progress:
        for status in producer.follow(jobs):
            progress.update(status)
            if status.final:
                done[status.id] = status, producer.result(status.id)
                if folder is not None:
                    written &= folder.write(done[status.id][1])
    return [done[job_id] for job_id in jobs], written


@app.command(rich_help_panel=RUNNING)
def up(
    workers: CpuWorkers = None,
    flower: Annotated[bool, typer.Option("--flower", help="Start Flower, the queue's dashboard, beside it.")] = False,
) -> None:
    """Run a pool on this machine until Ctrl-C: Redis (unless one answers), gateway and workers."""
    settings = Settings()
    configure_logs(settings)
    open_store(settings).check()
    plan = plan_for_this_machine(settings, workers)
    with Embedded(settings) as pool:
        try:
            if not answers(settings.redis_url):
                with err.status("Starting Redis"):
                    pool.start_redis()
            with err.status("Loading models"):
                pool.start_workers(plan.workers)
            url = pool.start_gateway()
            err.print(f"[bold]ocrpool is up[/bold]: {count(len(plan.workers), 'worker')}; Ctrl-C stops it.")
            err.print(f"  gateway   {url}  (API at {url}/docs)")
            if settings.asks_for_keys:
                err.print("  API keys  are needed: `ocrpool keys create NAME` makes one")
            err.print(f"  Redis     {without_passwords(settings.redis_url)}")
            if flower:
                err.print(f"  Flower    {pool.start_flower()}")
            err.print(f"  logs      {pool.log_dir}")
            pool.supervise(asked_to_stop())
        except KeyboardInterrupt:
            pass  # Before all was up.
        err.print(_STOPPING)


@app.command(rich_help_panel=RUNNING)
def pool(
    workers: CpuWorkers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run where, and start nothing.")] = False,
) -> None:
    """Run workers beside a Redis that is there already, one or more on each card, until SIGTERM or Ctrl-C.

    A worker that ends is started again.
    """
    settings = Settings()
    plan = plan_for_this_machine(settings, workers)
    print_plan(plan, out if dry_run else err)
    if dry_run:
        return
    configure_logs(settings)
    if not answers(settings.redis_url):
        raise Unavailable(f"No Redis answers at {without_passwords(settings.redis_url)}; `ocrpool up` brings one.")
    Workers(settings, plan.workers).run(asked_to_stop())


@app.command(rich_help_panel=RUNNING, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """Run one worker in the foreground. More arguments go to Celery's worker."""
    _become("worker", *context.args)


@app.command(rich_help_panel=RUNNING)
def gateway() -> None:
    """Run the HTTP gateway in the foreground."""
    _become("producer.gateway")


@app.command(
    rich_help_panel=RUNNING,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Measure the pool against one page at a time and its peers on this machine; `ocrpool bench --help` shows more."""
    if find_spec("psutil") is None or find_spec("numpy") is None:
        raise Unavailable("The benchmark is not installed: pip install 'ocrpool[cpu,bench]'.")
    _become("worker.bench", *context.args)


@app.command(
    rich_help_panel=RUNNING,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def shapes(context: typer.Context) -> None:
    """Fit the shapes that the models see to documents of yours: `ocrpool shapes fit FOLDER`."""
    _become("worker.shapes", *context.args)


@app.command(rich_help_panel=RUNNING)
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the README.")] = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Passwords, secrets and keys as they are, in place of `***`.")
    ] = False,
) -> None:
    """Show every setting: its variable and its value here; with --markdown its default, and what it does."""
    if markdown:
        out.print(describe(), markup=False)
        return
    for name, value in Settings():
        variable = f"OCRPOOL_{name.upper()}"
        shown = escape(as_text(value) if show_secrets else as_shown(name, value))
        out.print(f"[bold]{variable}[/]={shown}" if variable in os.environ else f"{variable}={shown}")


@app.command(rich_help_panel=JOBS)
def submit(
    files: Files,
    orientation: Orientation = False,
    min_score: MinScore = 0.5,
    pages: PageRanges = "",
    no_cache: NoCache = False,
    pdf_text: PdfText = "ocr",
    lane: Annotated[Lane, typer.Option(help="interactive or bulk.")] = Lane.INTERACTIVE,
    deadline_s: Deadline = None,
) -> None:
    """Hand documents to the running pool, and print their jobs' ids."""
    if lane is Lane.QUARANTINE:
        raise typer.BadParameter("the quarantine lane is the pool's own", param_hint="--lane")
    options = ReadOptions(
        orientation=orientation,
        min_score=min_score,
        pages=pages,
        pdf_text=pdf_text,
        lane=lane,
        deadline_s=deadline_s,
        cache=not no_cache,
    )
    with running_pool() as producer:
        for file in files:
            out.print(producer.submit(file, options).id)


@app.command(rich_help_panel=JOBS)
def status(job: JobArgument, format: FormatOption = Format.TEXT) -> None:
    """Show where a job stands."""
    with running_pool() as producer:
        print_status(producer.status(job), format)


@app.command(rich_help_panel=JOBS)
def result(
    job: JobArgument,
    format: ResultFormatOption = ResultFormat.TEXT,
    output: Output = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for the job to finish.")] = 0,
) -> None:
    """Print a finished job's text, or write it in another format."""
    if not output:
        refuse_to_print(format, 1)
    with running_pool() as producer:
        if wait_s:
            with PageProgress(err, [job]) as progress:
                for now in producer.follow([job], timeout_s=wait_s):
                    progress.update(now)
        found = producer.result(job)
        if output:
            written = OutputFolder(output, format, producer.results).write(found)
        else:
            written = True
            print_result(found, format, producer.results)
    if not report(found.name or job, found) or not written:
        raise typer.Exit(1)


@app.command(rich_help_panel=JOBS)
def cancel(job: JobArgument) -> None:
    """Cancel a job: its pages that are not read yet never will be."""
    with running_pool() as producer:
        print_status(producer.cancel(job), Format.TEXT)


def main() -> None:
    """The entry point."""
    for sentence in unknown_variables(os.environ):
        err.print(f"warning: {sentence}", markup=False)
    run(app)


def run(commands: typer.Typer) -> None:
    """Run a command line: every expected error is one line on standard error and exit status 1."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        commands(prog_name=commands.info.name)
    except OcrpoolError as error:
        _die(f"{error} ({error.code})")
    except ValidationError as error:
        for sentence in explain(error):
            fail(sentence)
        sys.exit(1)
    except OSError as error:
        _die(escaped(f"{error.filename or ''}: {error.strerror}".removeprefix(": ")))


def _die(message: str) -> NoReturn:
    fail(message)
    sys.exit(1)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _become(module: str, *arguments: str) -> NoReturn:
    Settings()  # A wrong variable is told here, in one line.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


@contextmanager
def _some_pool(embedded: bool) -> Iterator[Settings]:
    """The settings of the running pool, or of one that lives as long as the context."""
    chosen = Settings()
    if not embedded and _workers(chosen):
        yield chosen
        return
    with pool_of_its_own(chosen) as (pool, own):
        with err.status("Starting a pool for this command: loading models"):
            pool.start_redis()
            pool.start_workers(one_worker(own))
        yield own


def _workers(chosen: Settings) -> list[str]:
    if not answers(chosen.redis_url):
        return []
    with Producer(chosen) as producer:
        return producer.workers()


if __name__ == "__main__":
    main()
