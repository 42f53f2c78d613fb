"""What an operator may choose about the embedded servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Choices of the operator; each is optional.

    Attributes:
        postgres_bin: directory with ``postgres`` and ``initdb`` (``TRELLIS_POSTGRES_BIN``).
        redis_server: a Valkey or Redis server program (``TRELLIS_REDIS_SERVER``).
        run_as: user that runs the servers when we are root (``TRELLIS_SERVER_USER``).
        durable: off skips Postgres' fsync: commits survive a crash of the server but not of
            the machine; for throw-away servers of tests only.
    """

    postgres_bin: Path | None = None
    redis_server: Path | None = None
    run_as: str | None = None
    durable: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> ServerOptions:
        """Read the choices from an environment."""

        def path(name: str) -> Path | None:
            return Path(env[name]).absolute() if env.get(name) else None

        return cls(
            postgres_bin=path("TRELLIS_POSTGRES_BIN"),
            redis_server=path("TRELLIS_REDIS_SERVER"),
            run_as=env.get("TRELLIS_SERVER_USER") or None,
        )
