"""Typed settings of the platform, read once per process from its environment.

Every setting is declared beside its variable name, parser, default and description; the
table in ``docs/configuration.md`` is generated from these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, validate
from marshmallow import fields as ma

from config.keys import load_or_create_key
from config.runtime import SANDBOX_FLOORS

MASTER_KEY = re.compile(r"[0-9a-fA-F]{64}\Z")


class ConfigurationError(Exception):
    """A setting is missing or malformed; the text names the variable."""


class AppEnv(StrEnum):
    """Where the platform runs."""

    DEVELOPMENT = "development"
    TESTING = "testing"
    PRODUCTION = "production"


class Seconds(ma.Float):
    """A positive number of seconds, read as a ``timedelta``."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        number = super()._deserialize(value, attr, data, **kwargs)
        if number <= 0:
            raise ValidationError("must be a number of seconds above 0")
        return timedelta(seconds=number)


class DatabaseURL(ma.Str):
    """A Postgres URL; every spelling becomes ``postgresql+psycopg2://``."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        text = str(super()._deserialize(value, attr, data, **kwargs))
        match = re.match(r"(postgres|postgresql)(\+\w+)?://(.+)", text)
        if match is None:
            raise ValidationError("must be a postgresql:// URL")
        return f"postgresql+psycopg2://{match.group(3)}"


class CommaList(ma.Str):
    """Comma-separated texts, read as a tuple."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        text = str(super()._deserialize(value, attr, data, **kwargs))
        return tuple(part.strip() for part in text.split(",") if part.strip())


class KeyList(CommaList):
    """Comma-separated keys of the vault."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        keys = super()._deserialize(value, attr, data, **kwargs)
        if not all(MASTER_KEY.fullmatch(key) for key in keys):
            raise ValidationError("must be keys of 64 hex digits")
        return keys


class NetworkList(CommaList):
    """Comma-separated networks in CIDR notation."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        try:
            return tuple(
                ip_network(part) for part in super()._deserialize(value, attr, data, **kwargs)
            )
        except ValueError as exc:
            raise ValidationError("must be networks like 10.0.0.0/8, comma-separated") from exc


class Switch(ma.Str):
    """``true`` or ``1`` is on; any other text is off."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        return str(super()._deserialize(value, attr, data, **kwargs)).lower() in {"true", "1"}


class OnOff(ma.Str):
    """``on``/``off`` (also true/false, 1/0)."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Any, **kwargs: Any
    ) -> Any:  # Any: marshmallow's signature
        text = str(super()._deserialize(value, attr, data, **kwargs)).lower()
        if text in {"on", "true", "1"}:
            return True
        if text in {"off", "false", "0"}:
            return False
        raise ValidationError("must be on or off")


def positive(**kwargs: Any) -> ma.Integer:  # Any: marshmallow's field options
    """Return a parser for whole numbers from 1."""
    return ma.Integer(
        validate=validate.Range(min=1, error="must be a whole number from 1"), **kwargs
    )


def natural() -> ma.Integer:
    """Return a parser for whole numbers from 0."""
    return ma.Integer(validate=validate.Range(min=0, error="must be a whole number from 0"))


def setting(
    env: str, parser: ma.Field[Any], default: Any, doc: str
) -> Any:  # Any: as dataclasses.field
    """Declare one setting.

    Args:
        env: the environment variable.
        parser: the marshmallow field that reads its text.
        default: the parsed default, or ``MISSING`` when the variable must be set.
        doc: one sentence for operators.
    """
    metadata = {"env": env, "parser": parser, "doc": doc}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Postgres."""

    url: str = setting(
        "DATABASE_URL",
        DatabaseURL(),
        MISSING,
        "Postgres connection URL. `trellis up` sets it to the embedded server when it is not given.",
    )
    pool_size: int = setting(
        "DATABASE_POOL_SIZE", positive(), 10, "Connections one process keeps at most."
    )
    connect_timeout: timedelta = setting(
        "DATABASE_CONNECT_TIMEOUT",
        Seconds(),
        timedelta(seconds=2),
        "Seconds to wait for a connection.",
    )
    statement_timeout: timedelta = setting(
        "DATABASE_STATEMENT_TIMEOUT",
        Seconds(),
        timedelta(seconds=8),
        "Seconds one statement of the data API may take.",
    )


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Redis or Valkey: Celery broker, log streams, caches. Nothing durable."""

    url: str = setting(
        "REDIS_URL",
        ma.Str(validate=validate.Regexp(r"rediss?://", error="must be a redis:// URL")),
        MISSING,
        "Redis connection URL. `trellis up` sets it to the embedded server when it is not given.",
    )
    timeout: timedelta = setting(
        "REDIS_TIMEOUT",
        Seconds(),
        timedelta(seconds=1),
        "Seconds to wait for a connection or an answer.",
    )


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Tokens, sign-in and the keys of the vault."""

    jwt_secret: str = setting(
        "JWT_SECRET",
        ma.Str(validate=validate.Length(min=32, error="must be at least 32 bytes long")),
        "",
        "HMAC key of our tokens, at least 32 bytes. Generated once in the data directory when not given; several hosts must set it.",
    )
    master_key: str = setting(
        "MASTER_KEY",
        ma.Str(validate=validate.Regexp(MASTER_KEY, error="must be 64 hex digits")),
        "",
        "Key of the secret vault, 64 hex digits. Generated once in the data directory when not given; several hosts must set it.",
    )
    previous_master_keys: tuple[str, ...] = setting(
        "MASTER_KEYS_PREVIOUS",
        KeyList(),
        (),
        "Further keys that may still decrypt secrets, comma-separated, until `trellis secrets rotate` has run.",
    )
    access_ttl: timedelta = setting(
        "ACCESS_TOKEN_TTL",
        Seconds(),
        timedelta(seconds=900),
        "Lifetime of an access token in seconds.",
    )
    session_ttl: timedelta = setting(
        "SESSION_TTL",
        Seconds(),
        timedelta(days=30),
        "Lifetime of a session and its refresh token in seconds.",
    )
    disable_password_login: bool = setting(
        "DISABLE_PASSWORD_LOGIN",
        Switch(),
        False,
        "`true` or `1` refuses password login and registration.",
    )
    throttle: bool = setting("AUTH_THROTTLE", OnOff(), True, "Slow down guessing of credentials.")
    hash_concurrency: int = setting(
        "PASSWORD_HASH_CONCURRENCY",
        positive(),
        2,
        "Password hashes one process computes at a time.",
    )


@dataclass(frozen=True, slots=True)
class OIDCSettings:
    """An identity provider that exists from the first start."""

    issuer: str = setting(
        "OIDC_ISSUER",
        ma.Str(
            validate=validate.Regexp(
                r"https://[^/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|\Z)",
                error="must be an https:// URL (http:// only on this machine)",
            )
        ),
        "",
        "Issuer URL of the provider `default`, which is created at the start when it is missing.",
    )
    client_id: str = setting(
        "OIDC_CLIENT_ID", ma.Str(), "", "Our client id there; needed with `OIDC_ISSUER`."
    )
    client_secret: str = setting(
        "OIDC_CLIENT_SECRET", ma.Str(), "", "Our client secret there; needed with `OIDC_ISSUER`."
    )


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The job queue and the crons."""

    visibility_timeout: timedelta = setting(
        "JOB_VISIBILITY_TIMEOUT",
        Seconds(),
        timedelta(seconds=120),
        "Seconds a delivered job stays hidden before it is delivered again.",
    )
    max_deliveries: int = setting(
        "JOB_MAX_DELIVERIES",
        natural(),
        5,
        "Deliveries before a job goes to the dead letters; 0 = unlimited.",
    )
    sweep_interval: timedelta = setting(
        "JOB_SWEEP_INTERVAL",
        Seconds(),
        timedelta(seconds=1),
        "Seconds between two sweeps for jobs without a turn.",
    )
    in_flight_per_app: int = setting(
        "JOBS_IN_FLIGHT_PER_APP", positive(), 8, "Jobs of one app that one node runs at a time."
    )
    turns_per_app: int = setting(
        "JOB_TURNS_PER_APP",
        positive(),
        2,
        "Turns of one app per live node that wait on the broker at most.",
    )
    archive_days: int = setting(
        "JOB_ARCHIVE_DAYS", natural(), 30, "Days to keep archived jobs; 0 = for ever."
    )
    dead_letter_days: int = setting(
        "JOB_DLQ_DAYS", natural(), 30, "Days to keep dead letters; 0 = for ever."
    )
    cron_run_days: int = setting(
        "CRON_RUN_DAYS", positive(), 7, "Days to keep the history of cron runs."
    )
    webhook_delivery_days: int = setting(
        "WEBHOOK_DELIVERY_DAYS",
        natural(),
        7,
        "Days to keep what was delivered to webhooks, the latest 100 calls of each at most; 0 = for ever.",
    )
    leader_retry: timedelta = setting(
        "TICK_LEADER_RETRY",
        Seconds(),
        timedelta(seconds=2),
        "Seconds between two attempts of a waiting beat to lead.",
    )


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Deployment and app processes."""

    deploy_max_bytes: int = setting(
        "DEPLOY_MAX_BYTES",
        positive(),
        50 * 1024 * 1024,
        "Size limit of an uploaded archive in bytes.",
    )
    deploy_install_timeout: timedelta = setting(
        "DEPLOY_INSTALL_TIMEOUT",
        Seconds(),
        timedelta(seconds=300),
        "Seconds a dependency install may take.",
    )
    rpc_timeout: timedelta = setting(
        "RPC_TIMEOUT",
        Seconds(),
        timedelta(seconds=30),
        "Seconds from the acceptance of an RPC to its answer.",
    )
    handshake_timeout: timedelta = setting(
        "WORKER_HANDSHAKE_TIMEOUT",
        Seconds(),
        timedelta(seconds=10),
        "Seconds an app process has to announce itself.",
    )
    stop_grace: timedelta = setting(
        "WORKER_STOP_GRACE",
        Seconds(),
        timedelta(seconds=5),
        "Seconds an app process has to end after `shutdown`.",
    )
    max_crashes: int = setting(
        "WORKER_MAX_CRASHES",
        positive(),
        5,
        "Crashes inside the window after which an app is given up.",
    )
    crash_window: timedelta = setting(
        "WORKER_CRASH_WINDOW", Seconds(), timedelta(seconds=60), "The crash window in seconds."
    )
    idle_timeout: timedelta = setting(
        "WORKER_IDLE_TIMEOUT",
        Seconds(),
        timedelta(seconds=300),
        "Seconds after which an idle process away from its home node is stopped.",
    )
    procs_per_app: int = setting(
        "WORKER_PROCS_PER_APP", positive(), 1, "Processes of one app per node."
    )
    procs_per_node: int = setting(
        "WORKER_PROCS_PER_NODE", positive(), 128, "App processes of one node."
    )
    memory_mb: int = setting(
        "WORKER_MEMORY_MB", positive(), 512, "Memory limit of one app process in MiB."
    )
    sandbox_floor: str = setting(
        "WORKER_SANDBOX_FLOOR",
        ma.Str(validate=validate.OneOf(SANDBOX_FLOORS)),
        "none",
        "Weakest sandbox in which a worker runs app code: `none`, `basic`, `isolated` or `strict`.",
    )
    caller_token: bool = setting(
        "WORKER_CALLER_TOKEN",
        OnOff(),
        True,
        "Hand handlers an access token of their caller, limited to the app.",
    )
    log_buffer: int = setting(
        "LOG_BUFFER", positive(), 256, "Log entries per app kept for late readers."
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Agents: runs, approvals, calls of models."""

    run_limit: timedelta = setting(
        "AGENT_RUN_LIMIT",
        Seconds(),
        timedelta(seconds=1800),
        "Seconds an agent run may work; waiting for approvals does not count.",
    )
    queue_wait: timedelta = setting(
        "AGENT_QUEUE_WAIT",
        Seconds(),
        timedelta(seconds=120),
        "Seconds a run waits for a worker before it fails.",
    )
    approval_life: timedelta = setting(
        "AGENT_APPROVAL_LIFE",
        Seconds(),
        timedelta(seconds=86400),
        "Seconds after which an unanswered approval expires.",
    )
    heartbeat: timedelta = setting(
        "AGENT_HEARTBEAT",
        Seconds(),
        timedelta(seconds=10),
        "Seconds between two signs of life of a run; six without one and its worker counts as lost.",
    )
    ping: timedelta = setting(
        "AGENT_PING", Seconds(), timedelta(seconds=15), "Seconds between comments on idle streams."
    )
    model_call: timedelta = setting(
        "AGENT_MODEL_CALL",
        Seconds(),
        timedelta(seconds=300),
        "Seconds one call of a model may take, unless the model's own configuration says otherwise.",
    )
    mcp_stdio: bool = setting(
        "MCP_STDIO",
        OnOff(),
        True,
        "Whether MCP servers may be programs that nodes start; their managers choose the command.",
    )
    runs_per_node: int = setting(
        "AGENT_RUNS_PER_NODE",
        positive(),
        24,
        "Runs one node works on at a time; each takes a thread while it works.",
    )


@dataclass(frozen=True, slots=True)
class HTTPSettings:
    """The HTTP edge."""

    public_url: str = setting(
        "PUBLIC_URL",
        ma.Url(require_tld=False, schemes={"http", "https"}),
        "http://localhost:9100",
        "External base URL of the platform.",
    )
    oauth_callback_url: str = setting(
        "OAUTH_CALLBACK_URL",
        ma.Url(require_tld=False, schemes={"http", "https"}),
        "",
        "Where services send browsers back to after a login of an integration; `PUBLIC_URL` plus `/api/v1/integrations/auth/callback` when not given.",
    )
    cors_origins: tuple[str, ...] = setting(
        "CORS_ORIGINS", CommaList(), (), "Further allowed origins, comma-separated."
    )
    trusted_proxy_count: int = setting(
        "TRUSTED_PROXY_COUNT", natural(), 0, "Proxy hops of `X-Forwarded-For` to believe."
    )
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES", positive(), 50 * 1024 * 1024, "Size limit of a request body in bytes."
    )
    app_files_max_bytes: int = setting(
        "APP_FILES_MAX_BYTES",
        natural(),
        10 * 1024**3,
        "Bytes the stored files of one app may take, and those it has on disk; 0 = any.",
    )
    public_requests_per_minute: int = setting(
        "PUBLIC_REQUESTS_PER_MINUTE",
        natural(),
        600,
        "Requests a minute of one client address that come without a token or with a share token; 0 = no limit.",
    )
    outgoing_networks: tuple[IPv4Network | IPv6Network, ...] = setting(
        "OUTGOING_NETWORKS",
        NetworkList(),
        (),
        "Private networks that identity providers may be reached in (CIDR, comma-separated); others are refused.",
    )


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """Log output of the platform itself."""

    level: str = setting(
        "LOG_LEVEL",
        ma.Str(
            validate=validate.OneOf(
                ["DEBUG", "INFO", "WARNING", "ERROR"], error="must be DEBUG, INFO, WARNING or ERROR"
            )
        ),
        "INFO",
        "Least severe level that is logged.",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    env: AppEnv
    data_dir: Path
    database: DatabaseSettings
    redis: RedisSettings
    auth: AuthSettings
    oidc: OIDCSettings
    jobs: JobSettings
    workers: WorkerSettings
    agents: AgentSettings
    http: HTTPSettings
    logging: LoggingSettings


GROUPS: Mapping[str, type[Any]] = {  # Any: each group is its own dataclass
    "database": DatabaseSettings,
    "redis": RedisSettings,
    "auth": AuthSettings,
    "oidc": OIDCSettings,
    "jobs": JobSettings,
    "workers": WorkerSettings,
    "agents": AgentSettings,
    "http": HTTPSettings,
    "logging": LoggingSettings,
}


def load_settings(env: Mapping[str, str]) -> Settings:
    """Read all settings from an environment.

    Keys that are not given are read from, or once generated in, ``TRELLIS_DATA_DIR``; in
    production both must be given, because a platform's disk may not outlive a restart.

    Raises:
        ConfigurationError: a variable is missing or malformed; the text names it.
    """
    app_env = _app_env(env)
    data_dir = Path(env.get("TRELLIS_DATA_DIR") or ".data").absolute()
    groups = {name: _load_group(group, env) for name, group in GROUPS.items()}
    groups["auth"] = _with_keys(groups["auth"], app_env, data_dir)
    _check_provider(groups["oidc"])
    return Settings(env=app_env, data_dir=data_dir, **groups)


def _app_env(env: Mapping[str, str]) -> AppEnv:
    text = env.get("APP_ENV") or AppEnv.DEVELOPMENT
    try:
        return AppEnv(text)
    except ValueError:
        raise ConfigurationError(
            f"APP_ENV: must be development, testing or production, not '{text}'"
        ) from None


def _load_group(group: type[Any], env: Mapping[str, str]) -> Any:  # Any: see GROUPS
    return group(**{f.name: _load_field(f, env) for f in fields(group)})


def _load_field(declared: Field[Any], env: Mapping[str, str]) -> Any:  # Any: see GROUPS
    name = declared.metadata["env"]
    text = env.get(name, "")
    if text == "":
        if declared.default is MISSING:
            raise ConfigurationError(f"{name}: must be set")
        return declared.default
    try:
        return declared.metadata["parser"].deserialize(text)
    except ValidationError as exc:
        raise ConfigurationError(f"{name}: {'; '.join(map(str, exc.messages))}") from None


def _check_provider(oidc: OIDCSettings) -> None:
    for name, value in (
        ("OIDC_CLIENT_ID", oidc.client_id),
        ("OIDC_CLIENT_SECRET", oidc.client_secret),
    ):
        if oidc.issuer and not value:
            raise ConfigurationError(f"{name}: must be set when OIDC_ISSUER is")


def _with_keys(auth: AuthSettings, app_env: AppEnv, data_dir: Path) -> AuthSettings:
    values = {f.name: getattr(auth, f.name) for f in fields(auth)}
    for name, env_name, file_name in (
        ("jwt_secret", "JWT_SECRET", "jwt.key"),
        ("master_key", "MASTER_KEY", "master.key"),
    ):
        if values[name]:
            continue
        if app_env is AppEnv.PRODUCTION:
            raise ConfigurationError(f"{env_name}: must be set in production")
        values[name] = load_or_create_key(data_dir / "config" / file_name)
    return AuthSettings(**values)


def redacted_url(url: str) -> str:
    """Return a connection URL without its password, for people to read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
