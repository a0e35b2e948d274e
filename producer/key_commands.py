"""`ocrpool keys`: who may ask the gateway."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from producer.api_keys import ApiKey, ApiKeys
from producer.embedded import running_pool
from producer.escaping import escaped
from producer.printing import Format, aligned, err, out
from producer.tenants import tenant_named

commands = typer.Typer(name="keys", help="API keys, which the gateway asks for beyond loopback.", no_args_is_help=True)
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="text, or json: one object a line.")]


@commands.command()
def create(
    name: Annotated[str, typer.Argument(help="What the list shows, such as whose key it is.", show_default=False)],
    tenant: Annotated[
        str, typer.Option(help="Whose jobs the key hands in and sees: keys of one tenant share them.")
    ] = "",
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a key, and print it: this once."""
    with running_pool() as producer:
        key, text = ApiKeys(producer.ledger).create(name, tenant_named(tenant))
    if format is Format.JSON:
        typer.echo(json.dumps({**_shown(key), "key": text}))
        return
    typer.echo(text)
    err.print("This key is not shown again; `ocrpool keys revoke` ends it.")


@commands.command("list")
def list_all(format: FormatOption = Format.TEXT) -> None:
    """Show the keys, without their secrets."""
    with running_pool() as producer:
        found = ApiKeys(producer.ledger).all()
    if format is Format.JSON:
        for key, used_at in found:
            typer.echo(json.dumps({**_shown(key), "used_at": used_at}))
        return
    if not found:
        err.print("There are no API keys.")
        return
    rows = [(key.id, escaped(key.name), key.tenant or "-", _when(key.created_at), _when(used)) for key, used in found]
    for line in aligned([("id", "name", "tenant", "created", "last used"), *rows]):
        out.print(line, markup=False)


@commands.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(help="Ids that `ocrpool keys list` shows.", show_default=False)],
) -> None:
    """End keys: gateways refuse them within seconds."""
    with running_pool() as producer:
        for id in ids:
            ApiKeys(producer.ledger).revoke(id)
            err.print(f"revoked {id}", markup=False)


def _shown(key: ApiKey) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"digest"})


def _when(at: int | None) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M") if at else "never"
