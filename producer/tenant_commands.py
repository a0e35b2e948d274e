"""`ocrpool tenants`: what each of those who share a pool may have."""

from __future__ import annotations

from typing import Annotated

import typer

from producer.embedded import running_pool
from producer.limits import Limits
from producer.printing import Format, aligned, err, out
from producer.tenants import Tenants, Usage, tenant_named

commands = typer.Typer(
    name="tenants", help="Who shares the pool, and how much of it each may have.", no_args_is_help=True
)
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="text, or json: one object a line.")]
Name = Annotated[str, typer.Argument(help="The tenant's name.", show_default=False)]


@commands.command("list")
def list_all(format: FormatOption = Format.TEXT) -> None:
    """Show the tenants that have unfinished jobs or limits of their own."""
    with running_pool() as producer:
        found, defaults = Tenants(producer.ledger).all(), Limits.of_all(producer.settings)
    if not found and format is Format.TEXT:
        err.print("No tenant has unfinished jobs or limits of its own.")
        return
    _print(found, defaults, format)


@commands.command()
def show(tenant: Name, format: FormatOption = Format.TEXT) -> None:
    """Show what a tenant has in the pool, and what it may have."""
    with running_pool() as producer:
        found, defaults = Tenants(producer.ledger).usage(tenant_named(tenant)), Limits.of_all(producer.settings)
    _print([found], defaults, format)


@commands.command("set")
def set_limits(
    tenant: Name,
    *,
    max_queued_pages: Annotated[int | None, typer.Option(min=0, help="Pages that wait or are being read.")] = None,
    max_unfinished_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that have not ended.")] = None,
    max_requests_per_s: Annotated[float | None, typer.Option(min=0, help="Requests a second.")] = None,
    max_document_bytes: Annotated[int | None, typer.Option(min=0, help="Size of a document.")] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Forget its limits first: those of the settings hold.")
    ] = False,
) -> None:
    """Limit a tenant, 0: not at all. What is not named stays as it is; gateways know within seconds."""
    chosen = Limits(
        max_queued_pages=max_queued_pages,
        max_unfinished_jobs=max_unfinished_jobs,
        max_requests_per_s=max_requests_per_s,
        max_document_bytes=max_document_bytes,
    )
    with running_pool() as producer:
        tenants, name = Tenants(producer.ledger), tenant_named(tenant)
        tenants.set_limits(name, chosen.over(Limits() if defaults else tenants.limits(name)))
        _print([tenants.usage(name)], Limits.of_all(producer.settings), Format.TEXT)


def _print(found: list[Usage], defaults: Limits, format: Format) -> None:
    """Those limits that are the settings' stand in brackets."""
    if format is Format.JSON:
        for usage in found:
            typer.echo(usage.model_dump_json())
        return
    heading = ("tenant", "unfinished jobs", "of", "queued pages", "of", "requests/s", "document bytes")
    rows = [
        (
            usage.tenant or "-",
            f"{usage.unfinished_jobs:,}",
            _limit(usage.limits.max_unfinished_jobs, defaults.max_unfinished_jobs),
            f"{usage.queued_pages:,}",
            _limit(usage.limits.max_queued_pages, defaults.max_queued_pages),
            _limit(usage.limits.max_requests_per_s, defaults.max_requests_per_s),
            _limit(usage.limits.max_document_bytes, defaults.max_document_bytes),
        )
        for usage in found
    ]
    for line in aligned([heading, *rows]):
        out.print(line, markup=False)


def _limit(own: float | None, default: float | None) -> str:
    shown = f"{own if own is not None else default:,}" if (own if own is not None else default) else "any"
    return shown if own is not None else f"({shown})"
