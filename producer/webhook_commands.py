"""`ocrpool webhooks`: look at the webhooks on their way and send them anew."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from producer.embedded import running_pool
from producer.errors import InvalidRequest, Unavailable
from producer.escaping import escaped
from producer.logs import configure_logs
from producer.outbox import Delivery, DeliveryState, Outbox
from producer.printing import Format, aligned, count, err, out
from producer.processes import asked_to_stop
from producer.settings import Settings

commands = typer.Typer(name="webhooks", help="The webhooks of jobs that have ended.", no_args_is_help=True)
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="text, or json: one object a line.")]


@commands.command("list")
def list_all(
    state: Annotated[DeliveryState | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show them, the newest first."""
    with running_pool() as producer:
        found = [one for one in Outbox(producer.ledger).all() if state in (None, one.state)]
    if format is Format.JSON:
        for delivery in found:
            typer.echo(delivery.model_dump_json())
        return
    if not found:
        err.print("There are no such webhooks." if state else "There are no webhooks.")
        return
    heading = ("job", "ended", "state", "tries", "endpoint", "last try")
    for line in aligned([heading, *map(_row, found)]):
        out.print(line, markup=False)


def _row(delivery: Delivery) -> tuple[str, ...]:
    ended = datetime.fromtimestamp(delivery.ended_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    # What follows the path may be a secret of the receiver's.
    endpoint = escaped(delivery.url.partition("?")[0])
    return delivery.job_id, ended, delivery.state.value, str(delivery.attempts), endpoint, escaped(delivery.outcome)


@commands.command()
def replay(
    jobs: Annotated[list[str] | None, typer.Argument(help="Ids of jobs.", show_default=False)] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every webhook that was given up.")] = False,
) -> None:
    """Send webhooks anew and at once, with all their tries, each under the id that it had."""
    if bool(jobs) == dead:
        raise InvalidRequest("Say which jobs' webhooks to send anew, or --dead.")
    with running_pool() as producer:
        outbox = Outbox(producer.ledger)
        chosen = jobs or [one.job_id for one in outbox.all() if one.state is DeliveryState.DEAD]
        for job_id in chosen:
            outbox.replay(job_id)
    err.print(f"put {count(len(chosen), 'webhook')} into the outbox")


@commands.command()
def deliver() -> None:
    """Send webhooks in the foreground, beside or instead of the gateways (`OCRPOOL_WEBHOOK_DELIVERIES=0`)."""
    from producer.webhooks import Deliverer

    settings = Settings()
    configure_logs(settings)
    if not settings.webhook_secrets:
        raise Unavailable("There is nothing to sign webhooks with: OCRPOOL_WEBHOOK_SECRETS is empty.")
    stop = asked_to_stop()
    with running_pool() as producer:
        deliverer = Deliverer(settings, producer.ledger)
        deliverer.start()
        err.print(f"Sending webhooks of {settings.namespace}; Ctrl-C stops it.")
        stop.wait()
        deliverer.stop()
        deliverer.join()
