"""Options that several commands have, and the settings they amount to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from odin.settings import Settings


def file_path(**options: Any) -> click.Path:
    return click.Path(path_type=Path, dir_okay=False, **options)


config_option = click.option(
    "--config", type=file_path(), help="Configuration file. [default: ./odin.toml]"
)
db_option = click.option("--db", type=file_path(), help="Database file. [default: store.path]")
json_option = click.option("--json", "is_json", is_flag=True, help="JSON, one object a line.")


def load_settings(config: Path | None, db: Path | None = None, **flags: object) -> "Settings":
    from odin.config import load

    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load(config, flags={"store.path": None if db is None else str(db), **given})
