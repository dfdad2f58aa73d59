"""Commands about the database and the clients in it: db, clients."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from odin.cli.options import config_option, db_option, file_path, json_option, load_settings
from odin.cli.output import print_fields, print_json, print_table, when
from odin.errors import OdinError, reflect

if TYPE_CHECKING:
    from odin.settings import Settings
    from odin.store.sqlite import SqliteStore

T = TypeVar("T")


def with_store(
    settings: "Settings",
    work: "Callable[[SqliteStore], Awaitable[T]]",
    *,
    path: str | None = None,
    create: bool = False,
    migrate: bool = True,
) -> T:
    """Open the database beside a server that may be running, do some work, and close it again."""
    import asyncio

    from odin.store.sqlite import SqliteStore

    async def run() -> T:
        store = await SqliteStore.open(
            path or settings.store.path,
            busy_timeout_s=settings.store.busy_timeout_s,
            is_tool=True,
            create=create,
            migrate=migrate,
        )
        async with store:
            return await work(store)

    return asyncio.run(run())


@click.group()
def clients() -> None:
    """Look at the clients whose subscriptions are kept."""


@clients.command("list")
@config_option
@db_option
@json_option
def clients_list(config: Path | None, db: Path | None, is_json: bool) -> None:
    """List all clients, the one seen last first."""
    rows = with_store(load_settings(config, db), lambda store: store.clients())
    if is_json:
        print_json(_client_fields(row) for row in rows)
        return
    print_table(
        ("client", "stocks", "last seen (IST)", "first seen (IST)"),
        (
            (row.client_id, row.subscription_count, when(row.last_seen_ms), when(row.created_ms))
            for row in rows
        ),
    )


@clients.command("show")
@click.argument("client_id")
@config_option
@db_option
@json_option
def clients_show(client_id: str, config: Path | None, db: Path | None, is_json: bool) -> None:
    """Show one client and what it is subscribed to."""
    row = with_store(load_settings(config, db), lambda store: store.client(client_id))
    if row is None:
        raise OdinError(f"No client is called {reflect(client_id)}")
    if is_json:
        held = [{**s.key._asdict(), **_named(s, 1)} for s in row.subscriptions]
        print_json([{**_client_fields(row), "subscriptions": held}])
        return
    print_fields(
        {
            "client": row.client_id,
            "first seen (IST)": when(row.created_ms),
            "last seen (IST)": when(row.last_seen_ms),
            "stocks": row.subscription_count,
        }
    )
    click.echo()
    print_table(
        ("symbol", "exchange", "segment", "token", "mode", "subscribed (IST)"),
        ((s.symbol, *s.key, s.mode, when(s.subscribed_ms)) for s in row.subscriptions),
    )


@clients.command("forget")
@click.argument("client_id")
@config_option
@db_option
def clients_forget(client_id: str, config: Path | None, db: Path | None) -> None:
    """Delete a client and its subscriptions."""
    if not with_store(load_settings(config, db), lambda store: store.forget(client_id)):
        raise OdinError(f"No client is called {reflect(client_id)}")
    click.echo(f"Client {client_id} was forgotten")


def _client_fields(row: Any) -> dict[str, object]:
    return {name: getattr(row, name) for name in row._fields[:-1]}


def _named(row: Any, start: int) -> dict[str, object]:
    return dict(zip(row._fields[start:], row[start:], strict=True))


@click.group()
def db() -> None:
    """Look after the database."""


@db.command("status")
@config_option
@db_option
@click.option("--check", is_flag=True, help="Also look for damage; reads the whole file.")
@json_option
def db_status(config: Path | None, db: Path | None, check: bool, is_json: bool) -> None:
    """Show what the database holds, its size and its schema."""
    settings = load_settings(config, db)
    status = with_store(settings, lambda store: store.status(check=check), migrate=False)
    if is_json:
        print_json([status._asdict()])
        return
    print_fields({name.replace("_", " "): value for name, value in status._asdict().items()})


@db.command("migrate")
@config_option
@db_option
def db_migrate(config: Path | None, db: Path | None) -> None:
    """Bring the schema up to date; a server does so when it starts."""
    settings = load_settings(config, db)
    names = with_store(settings, lambda store: store.migrate(), create=True, migrate=False)
    for name in names:
        click.echo(f"applied {name}")
    if not names:
        click.echo("The schema is up to date")


@db.command("query")
@click.argument("name", required=False)
@config_option
@db_option
@json_option
def db_query(name: str | None, config: Path | None, db: Path | None, is_json: bool) -> None:
    """Run one of the operators' queries; without NAME, list them."""
    if name is None:
        from odin.store.sql import ops_names

        for known in ops_names():
            click.echo(known)
        return
    headings, rows = with_store(load_settings(config, db), lambda store: store.run_ops(name))
    if is_json:
        print_json(dict(zip(headings, row, strict=True)) for row in rows)
        return
    print_table(headings, rows)


@db.command("backup")
@click.argument("file", type=file_path())
@config_option
@db_option
def db_backup(file: Path, config: Path | None, db: Path | None) -> None:
    """Copy the database to a new FILE while it is in use."""
    with_store(load_settings(config, db), lambda store: store.backup(file), migrate=False)
    click.echo(f"The database was copied to {file}")
