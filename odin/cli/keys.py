"""Commands about API keys."""

import re
from pathlib import Path
from typing import Any

import click

from odin.cli.database import with_store
from odin.cli.options import config_option, db_option, json_option, load_settings
from odin.cli.output import print_json, print_table, when
from odin.errors import OdinError, reflect

SCOPES = ("stream", "admin")


class _Scopes(click.ParamType[frozenset[str]]):
    """Scopes, separated by commas."""

    name = "scopes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[str]:
        scopes = frozenset(part.strip() for part in str(value).split(","))
        if not scopes <= set(SCOPES):
            self.fail(f"scopes are {' and '.join(SCOPES)}, separated by commas", param, ctx)
        return scopes


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scopes",
    type=_Scopes(),
    default="stream",
    show_default=True,
    help="What the key may do: stream (the WebSocket and the API), admin (metrics).",
)
@config_option
@db_option
def keys_create(name: str, scopes: frozenset[str], config: Path | None, db: Path | None) -> None:
    """Make a key and print it, once: only its hash is kept.

    NAME tells people what it is for. A running server knows the key at once.
    """
    from odin.auth.keys import create
    from odin.clock import WallClock

    if not re.fullmatch(r"[^\W_][\w .@:/-]{0,63}", name):
        raise click.UsageError("NAME must be 1 to 64 letters, digits, spaces and . _ @ : / -")
    key, text = create(name, scopes, WallClock().now_ms())
    with_store(load_settings(config, db), lambda store: store.add_api_key(key), create=True)
    click.echo(text)
    click.echo("Keep it: it cannot be shown again", err=True)


@keys.command("list")
@config_option
@db_option
@json_option
def keys_list(config: Path | None, db: Path | None, is_json: bool) -> None:
    """List all keys, the oldest first, without their secrets."""
    rows = with_store(load_settings(config, db), lambda store: store.api_keys())
    if is_json:
        print_json(
            {
                "id": row.id,
                "name": row.name,
                "scopes": sorted(row.scopes),
                "created_ms": row.created_ms,
                "revoked_ms": row.revoked_ms,
            }
            for row in rows
        )
        return
    print_table(
        ("id", "name", "scopes", "created (IST)", "revoked (IST)"),
        (
            (
                row.id,
                row.name,
                ",".join(sorted(row.scopes)),
                when(row.created_ms),
                "-" if row.revoked_ms is None else when(row.revoked_ms),
            )
            for row in rows
        ),
    )


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
@db_option
def keys_revoke(key_id: str, config: Path | None, db: Path | None) -> None:
    """Make a key invalid; a running server closes its connections within two seconds."""
    from odin.clock import WallClock

    now_ms = WallClock().now_ms()
    key_id = key_id.removeprefix("odin_")[:8]  # who pastes a whole key means its id
    settings = load_settings(config, db)
    if not with_store(settings, lambda store: store.revoke_api_key(key_id, now_ms)):
        raise OdinError(f"No valid key has the id {reflect(key_id)}")
    click.echo(f"Key {key_id} was revoked")
