"""The ``trellis`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from app.cli import place
from app.cli.errors import CommandError
from app.embedded.errors import EmbeddedError
from config.settings import ConfigurationError

DISTRIBUTION = "trellis-platform"

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, readable=False),
    envvar="TRELLIS_DATA_DIR",
    default=Path(".data"),
    show_default=True,
    help="Directory of everything that is kept.",
)
port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    default=place.DEFAULT_PORT,
    show_default=True,
    help="Port of the web process.",
)


def main() -> None:
    """Run the command; expected failures are one sentence on stderr and exit code 1."""
    try:
        cli()
    except (CommandError, EmbeddedError, ConfigurationError) as exc:
        sys.exit(f"trellis: {exc}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run the Trellis platform on this machine."""


@cli.command()
@port_option
@data_dir_option
@click.option(
    "--procfile",
    type=click.Path(path_type=Path),
    help="Another Procfile than the project's own.",
)
def up(port: int, data_dir: Path, procfile: Path | None) -> None:
    """Start everything and keep it running until Ctrl-C.

    Postgres and Valkey are started from installed packages unless DATABASE_URL or REDIS_URL
    name servers.
    """
    from app.cli.plan import Plan
    from app.cli.up import run

    plan = Plan(
        data_dir=data_dir.absolute(),
        host=_host(os.environ),
        port=port,
        procfile=place.procfile(procfile),
        env=dict(os.environ),
    )
    run(plan)


@cli.command()
@data_dir_option
def migrate(data_dir: Path) -> None:
    """Bring the database schema up to date."""
    from app.cli.keeper import current_urls
    from app.cli.migrate import migrate as run

    url = current_urls(data_dir.absolute(), os.environ).get("DATABASE_URL")
    if not url:
        raise CommandError(
            f"DATABASE_URL: must be set, because no embedded Postgres of {data_dir} runs now."
        )
    click.echo(f"The schema is at revision {run(url)}.")


@cli.group()
def secrets() -> None:
    """Look after the secret vault."""


@secrets.command()
@data_dir_option
def rotate(data_dir: Path) -> None:
    """Encrypt every secret anew with MASTER_KEY.

    The key used so far must be in MASTER_KEYS_PREVIOUS. Safe while the platform runs, and to be
    repeated after an interruption.
    """
    from app.cli.keeper import current_urls
    from app.cli.secrets import rotate as run
    from config.settings import load_settings

    given = {**os.environ, "TRELLIS_DATA_DIR": str(data_dir)}
    if not given.get("MASTER_KEY") and not (data_dir / "config" / "master.key").is_file():
        # Loading the settings would make up a key.
        raise CommandError(f"MASTER_KEY: must be set, because {data_dir} holds no key.")
    urls = current_urls(data_dir.absolute(), os.environ)
    run(load_settings({"REDIS_URL": "redis://unused", **given, **urls}), click.echo)


@cli.command()
@port_option
@data_dir_option
def doctor(port: int, data_dir: Path) -> None:
    """Say what is in use here and what is wrong."""
    from app.cli.doctor import examine

    click.echo(f"trellis {_version()}")
    bad = 0
    for good, subject, text in examine(data_dir.absolute(), _host(os.environ), port, os.environ):
        bad += not good
        click.echo(f"{'ok ' if good else 'BAD'}  {subject}: {text}")
    if bad:
        raise CommandError(f"{bad} of the checks above failed.")


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(_version())


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version(DISTRIBUTION)


def _host(env: Mapping[str, str]) -> str:
    return env.get("HOST") or "127.0.0.1"
