"""`ocrpool dead`: look at what the pool has given up, hand it in again or forget it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from producer.dead import DeadLetter, DeadLetters
from producer.embedded import running_pool
from producer.errors import InvalidRequest
from producer.escaping import escaped
from producer.printing import Format, aligned, count, err, out
from producer.producer import Producer

commands = typer.Typer(
    name="dead",
    help="What the pool has given up: pages that took three workers along, messages that were not its own, and "
    "webhooks that no try delivered.",
    no_args_is_help=True,
)
Id = Annotated[str, typer.Argument(help="The number that `ocrpool dead list` shows.", show_default=False)]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="text, or json: one object a line.")]


@contextmanager
def _letters() -> Iterator[tuple[DeadLetters, Producer]]:
    with running_pool() as producer:
        yield DeadLetters(producer.ledger), producer


@commands.command("list")
def list_all(format: FormatOption = Format.TEXT) -> None:
    """Show them, the newest first."""
    with _letters() as (letters, _):
        found = letters.all()
    if format is Format.JSON:
        for letter in found:
            typer.echo(letter.model_dump_json())
        return
    if not found:
        err.print("There are no dead letters.")
        return
    rows = [
        (
            letter.id,
            _at(letter.at_ms / 1000),
            _replay(letter),
            _what(letter),
            escaped(f"{letter.code}: {letter.reason}"),
        )
        for letter in found
    ]
    for line in aligned([("", "when", "replay", "what", "why"), *rows]):
        out.print(line, markup=False)


@commands.command()
def show(letter: Id, format: FormatOption = Format.TEXT) -> None:
    """Show one in full."""
    with _letters() as (letters, _):
        found = letters.get(letter)
    if format is Format.JSON:
        typer.echo(found.model_dump_json())
        return
    out.print(f"{_what(found)}, {_at(found.at_ms / 1000)}", markup=False)
    out.print(escaped(f"{found.code}: {found.reason}"), markup=False)
    out.print(found.content if found.kind == "message" else f"replay: {_replay(found)}", markup=False)


@commands.command()
def replay(letter: Id) -> None:
    """Hand the page's document in again as a new job, or send the webhook anew; print the job's id; forget it."""
    with _letters() as (letters, producer):
        out.print(letters.replay(letter, producer).id)


@commands.command()
def drop(
    letters: Annotated[list[str] | None, typer.Argument(help="Numbers of dead letters.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
) -> None:
    """Forget dead letters."""
    if bool(letters) == everything:
        raise InvalidRequest("Say which dead letters to drop, or --all.")
    with _letters() as (there, _):
        chosen = letters or [letter.id for letter in there.all()]
        for letter in chosen:
            there.drop(letter)
    err.print(f"dropped {count(len(chosen), 'dead letter')}")


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _replay(letter: DeadLetter) -> str:
    """Until when it can be handed in again."""
    if letter.kind == "message":
        return "no"
    return "document gone" if letter.replayable_until is None else f"until {_at(letter.replayable_until)}"


def _what(letter: DeadLetter) -> str:
    if letter.kind == "message":
        return f"a message of {escaped(letter.queue) or 'a queue'}"
    if letter.kind == "webhook":
        return f"the webhook of {letter.job_id}"
    page = letter.unit.partition("+")[0]
    part = f"page {page}" if page.isdigit() else "the pages' number"
    return f"{part} of {escaped(letter.name) or 'a document'} ({letter.job_id})"
