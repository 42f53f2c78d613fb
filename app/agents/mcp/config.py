"""What a registered MCP server may look like, and what it becomes once its secrets are known.

Source: REST contract part 40, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import Failed, Invalid
from app.core.outgoing import OutgoingError, check_url

JSONObject = dict[str, Any]  # Any: JSON values

NAME = re.compile(r"[a-z0-9_-]{1,32}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
SECRET = re.compile(r"\$\{secret:([A-Za-z0-9_]{1,128})\}")
REMOTE = frozenset({"http", "sse"})


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a node connects to it.

    Attributes:
        version: of its row; another one means another server.
        kind: ``stdio``, ``http`` or ``sse``.
        command: program and arguments; stdio only.
        secrets: values that must not show in error texts.
    """

    name: str
    version: int
    kind: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def check_name(name: str) -> str:
    """Return a server's name.

    Raises:
        Invalid: it is not spelled like one.
    """
    if NAME.fullmatch(name) is None:
        raise Invalid("name must be 1-32 lower-case letters, digits, '_' or '-'")
    return name


def checked(
    name: str, transport: JSONObject, env: JSONObject | None, *, stdio_allowed: bool
) -> JSONObject:
    """Return the configuration to keep of a request.

    Raises:
        Invalid: a part breaks a rule; the text names it.
    """
    kind = transport.get("type")
    if kind == "stdio":
        kept = _stdio(transport, stdio_allowed=stdio_allowed)
    elif kind in REMOTE:
        kept = _remote(transport)
    elif isinstance(kind, str):
        raise Invalid(f"unsupported transport '{kind}'")
    else:
        raise Invalid("field 'transport.type' is required")
    config: JSONObject = {"name": name, "transport": {"type": kind, **kept}}
    if env is not None:
        config["env"] = _texts(env, "env", ENV_NAME)
    return config


def resolved(config: JSONObject, version: int, secrets: Mapping[str, str]) -> Server:
    """Return a server with its secrets filled in.

    Raises:
        Failed: a secret is not set.
    """
    transport = config["transport"]
    used: list[str] = []

    def fill(values: Mapping[str, str]) -> dict[str, str]:
        return {name: _filled(value, secrets, used) for name, value in values.items()}

    return Server(
        name=config["name"],
        version=version,
        kind=transport["type"],
        command=(transport["command"], *transport["args"]) if "command" in transport else (),
        env=fill(config.get("env") or {}),
        url=transport.get("url", ""),
        headers=fill(transport.get("headers") or {}),
        secrets=tuple(used),
    )


def _filled(value: str, secrets: Mapping[str, str], used: list[str]) -> str:
    def look_up(match: re.Match[str]) -> str:
        found = secrets.get(match[1])
        if found is None:
            raise Failed(f"secret '{match[1]}' is not set")
        used.append(found)
        return found

    return SECRET.sub(look_up, value)


def _stdio(transport: JSONObject, *, stdio_allowed: bool) -> JSONObject:
    if not stdio_allowed:
        raise Invalid("MCP servers of type stdio are switched off on this platform")
    command, args = transport.get("command"), transport.get("args", [])
    if not isinstance(command, str) or not command.strip() or "\0" in command or "=" in command:
        raise Invalid("field 'transport.command' must be the name of a program")
    if not isinstance(args, list) or not all(isinstance(a, str) and "\0" not in a for a in args):
        raise Invalid("field 'transport.args' must be an array of strings")
    return {"command": command, "args": args}


def _remote(transport: JSONObject) -> JSONObject:
    url, headers = transport.get("url"), transport.get("headers", {})
    if not isinstance(url, str):
        raise Invalid("field 'transport.url' must be a string")
    try:
        check_url(url, loopback=True)
    except OutgoingError as exc:
        raise Invalid(f"field 'transport.url': {exc}") from exc
    return {"url": url, "headers": _texts(headers, "transport.headers", HEADER_NAME)}


def _texts(values: Any, path: str, names: re.Pattern[str]) -> JSONObject:  # Any: a JSON value
    if not isinstance(values, dict):
        raise Invalid(f"field '{path}' must be an object")
    for name, value in values.items():
        if names.fullmatch(name) is None:
            raise Invalid(f"field '{path}' has a bad name: '{name[:64]}'")
        if not isinstance(value, str) or any(c in value for c in "\0\r\n"):
            raise Invalid(f"field '{path}.{name}' must be a string of one line")
    return values
