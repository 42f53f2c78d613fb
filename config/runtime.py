"""Settings of the runtime: what an app process may do and how long things may take.

Standard library only, because the runtime loads neither marshmallow nor ``config.settings``.
The node hands these variables to its runtime; nothing else of its environment goes there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

INSTALL_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "UV_CONFIG_FILE",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_NATIVE_TLS",
    "npm_config_registry",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
"""Package-index and proxy variables of the operator, handed to dependency installs only."""

BASIC_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LOG_LEVEL", "APP_ENV")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Limits of one runtime. Times are seconds."""

    rpc_timeout_s: float = 30.0
    call_timeout_s: float = 30.0
    handshake_timeout_s: float = 10.0
    write_timeout_s: float = 5.0
    stop_grace_s: float = 5.0
    term_grace_s: float = 2.0
    install_timeout_s: float = 300.0
    idle_timeout_s: float = 300.0
    max_crashes: int = 5
    crash_window_s: float = 60.0
    procs_per_app: int = 1
    procs_per_node: int = 128
    memory_mb: int = 512
    max_line_bytes: int = 8 * 1024 * 1024
    uid_base: int = 61184
    uid_count: int = 4096
    sandbox_floor: str = "none"
    json_logs: bool = False
    log_level: str = "INFO"


VARIABLES: Mapping[str, str] = {
    "RPC_TIMEOUT": "rpc_timeout_s",
    "WORKER_HANDSHAKE_TIMEOUT": "handshake_timeout_s",
    "WORKER_STOP_GRACE": "stop_grace_s",
    "DEPLOY_INSTALL_TIMEOUT": "install_timeout_s",
    "WORKER_IDLE_TIMEOUT": "idle_timeout_s",
    "WORKER_MAX_CRASHES": "max_crashes",
    "WORKER_CRASH_WINDOW": "crash_window_s",
    "WORKER_PROCS_PER_APP": "procs_per_app",
    "WORKER_PROCS_PER_NODE": "procs_per_node",
    "WORKER_MEMORY_MB": "memory_mb",
    "WORKER_UID_BASE": "uid_base",
    "WORKER_UID_COUNT": "uid_count",
}
"""Environment variable of each setting an operator may change."""

SANDBOX_FLOORS = ("none", "basic", "isolated", "strict")


def load_runtime_settings(env: Mapping[str, str]) -> RuntimeSettings:
    """Read the runtime's settings from an environment.

    Raises:
        ValueError: a variable is not a positive number or a known word; the text names it.
    """
    whole = {f for f, t in RuntimeSettings.__annotations__.items() if t == "int"}
    values: dict[str, float | int] = {}
    for variable, name in VARIABLES.items():
        text = env.get(variable, "")
        if text:
            values[name] = _positive(variable, text, whole=name in whole)
    floor = env.get("WORKER_SANDBOX_FLOOR") or "none"
    if floor not in SANDBOX_FLOORS:
        raise ValueError(f"WORKER_SANDBOX_FLOOR: must be one of {', '.join(SANDBOX_FLOORS)}")
    return RuntimeSettings(
        **values,  # type: ignore[arg-type]  # the names and their types come from the class
        sandbox_floor=floor,
        json_logs=env.get("APP_ENV") == "production",
        log_level=env.get("LOG_LEVEL") or "INFO",
    )


def _positive(variable: str, text: str, *, whole: bool) -> float | int:
    try:
        number: float = int(text) if whole else float(text)
    except ValueError:
        number = 0
    if number <= 0 or not math.isfinite(number):
        kind = "a whole number from 1" if whole else "a number of seconds above 0"
        raise ValueError(f"{variable}: must be {kind}")
    return number


def runtime_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Pick what a runtime may see of its node's environment.

    Returns:
        A new environment without database, broker, signing or master-key variables.
    """
    names = (*BASIC_VARIABLES, *INSTALL_VARIABLES, *VARIABLES, "WORKER_SANDBOX_FLOOR")
    return {name: env[name] for name in names if name in env}
