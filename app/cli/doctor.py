"""``trellis doctor``: what is in use here, and what is wrong."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from app.cli import place
from app.cli.errors import CommandError
from app.cli.keeper import current_urls
from app.cli.migrate import revisions
from app.embedded.account import pick_account
from app.embedded.binaries import find_postgres, find_redis
from app.embedded.errors import EmbeddedError
from app.embedded.options import ServerOptions
from app.embedded.state import StateDirectory
from config.settings import ConfigurationError, load_settings, redacted_url

Finding = tuple[bool, str, str]
LOW_DISK_BYTES = 1024**3


def examine(data_dir: Path, host: str, port: int, env: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything a start needs; nothing is started or changed.

    Yields:
        (all right?, subject, what was found), one for each subject.
    """
    yield True, "python", f"{platform.python_version()} on {platform.platform()}"
    yield _data_dir(data_dir)
    yield _port(data_dir, host, port)
    urls = current_urls(data_dir, env) if data_dir.is_dir() else dict(env)
    for name, look in (("DATABASE_URL", _postgres), ("REDIS_URL", _redis)):
        if env.get(name):
            yield True, name, f"given: {redacted_url(env[name])}"
        else:
            yield _embedded(name, look, env)
            state = f"runs: {redacted_url(urls[name])}" if urls.get(name) else "does not run now"
            yield True, f"embedded {name}", state
    if urls.get("DATABASE_URL"):
        yield _schema(urls["DATABASE_URL"])
    if urls.get("REDIS_URL"):
        yield _broker(urls["REDIS_URL"])
    yield _settings({"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", **env}, data_dir)


def _data_dir(data_dir: Path) -> Finding:
    if not data_dir.exists():
        return True, "data directory", f"{data_dir} (will be created)"
    free = shutil.disk_usage(data_dir).free
    text = f"{data_dir}, {free // 1024**2} MiB free"
    if not any(data_dir.iterdir()) or (data_dir / "state.json").exists():
        return free > LOW_DISK_BYTES, "data directory", text
    try:
        StateDirectory(data_dir)
    except EmbeddedError as exc:
        return False, "data directory", str(exc)
    return free > LOW_DISK_BYTES, "data directory", text


def _port(data_dir: Path, host: str, port: int) -> Finding:
    try:
        place.require_port(host, port)
    except CommandError as exc:
        if (data_dir / "up.lock").exists():
            try:
                with place.only_one(data_dir):
                    pass
            except CommandError:
                return True, "port", f"{port}, in use while this data directory's platform runs"
        return False, "port", str(exc)
    return True, "port", f"{port} is free on {host}"


def _embedded(
    name: str,
    look: Callable[[ServerOptions], str],
    env: Mapping[str, str],
) -> Finding:
    try:
        return True, name, f"not given: {look(ServerOptions.from_env(env))}"
    except (EmbeddedError, OSError) as exc:
        return False, name, str(exc)


def _postgres(options: ServerOptions) -> str:
    account = pick_account(options.run_as)
    program = find_postgres(options.postgres_bin, account, None)
    return f"Postgres {program.version} from {program.source}, run as {account.name}"


def _redis(options: ServerOptions) -> str:
    account = pick_account(options.run_as)
    program = find_redis(options.redis_server, account, None)
    return f"Valkey/Redis {program.version} from {program.source}, run as {account.name}"


def _schema(url: str) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        current, newest = revisions(url)
    except SQLAlchemyError as exc:
        return False, "database", str(getattr(exc, "orig", exc)).strip().splitlines()[0]
    if current != newest:
        return False, "schema", f"is at {current or 'nothing'}, wants {newest}: run trellis migrate"
    return True, "schema", f"is at {current}, the newest"


def _broker(url: str) -> Finding:
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
    try:
        info = client.info("server")
    except redis.RedisError as exc:
        return False, "broker", f"REDIS_URL: {exc}"
    finally:
        client.close()
    version = info.get("valkey_version") or info.get("redis_version")
    return True, "broker", f"answers, version {version}"


def _settings(env: Mapping[str, str], data_dir: Path) -> Finding:
    keys = {"JWT_SECRET": "x" * 32, "MASTER_KEY": "0" * 64}
    filled = env if env.get("APP_ENV") == "production" else {**keys, **env}
    try:
        load_settings({**filled, "TRELLIS_DATA_DIR": str(data_dir)})
    except ConfigurationError as exc:
        return False, "settings", str(exc)
    return True, "settings", "all variables are well formed"
