"""agent.json: what a valid one looks like and what it means.

Source: REST contract part 40, section 1.1.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import Invalid
from app.core.permissions import is_key

FILES = ("agent.json", "backend/agent.json")
MAX_BYTES = 256 * 1024
MAX_NAME = 120
MAX_DESCRIPTION = 2000
MODES = ("autonomous", "supervised", "strict")
LIMITS: Mapping[str, tuple[int | None, int, int]] = {
    "maxTurns": (50, 1, 200),
    "maxContextTokens": (100_000, 1000, 2_000_000),
    "keepRecentMessages": (10, 0, 1000),
    "maxTokens": (None, 1, 1_000_000_000),
    "maxSeconds": (None, 1, 86_400),
}
WINDOW = re.compile(r"(\d{1,9})([smhd]?)")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

ReadFile = Callable[[str], bytes | None]
JSONObject = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class Definition:
    """A valid agent.json with its defaults filled in and its prompt resolved.

    Attributes:
        config: ``systemPrompt``, ``memory``, ``limits``, ``supervision`` and ``model`` if given.
        permissions: extra grants wanted for the agent's first role.
    """

    name: str
    description: str | None
    config: JSONObject
    prompt: str
    permissions: tuple[str, ...] = ()


def parse(read: ReadFile) -> Definition | None:
    """Return the definition in an archive, or None when it has no agent.json.

    Args:
        read: returns the bytes of a file of the archive, or None.

    Raises:
        Invalid: a rule is broken; the text names the JSON path.
    """
    for path in FILES:
        raw = read(path)
        if raw is not None:
            return _parse(raw, posixpath.dirname(path), read)
    return None


def window_seconds(text: str) -> int | None:
    """Return the seconds of a rate limit's window (``10m``, ``90``), or None."""
    match = WINDOW.fullmatch(text)
    if match is None or int(match[1]) == 0:
        return None
    return int(match[1]) * UNITS[match[2]]


def invalid(path: str, reason: str) -> Invalid:
    """Return the error of one broken rule."""
    return Invalid(f"agent.json is invalid: {path}: {reason}")


def _parse(raw: bytes, folder: str, read: ReadFile) -> Definition:
    given = _load(raw)
    name = _text(given, "name", MAX_NAME, required=True)
    description = _text(given, "description", MAX_DESCRIPTION) or None
    config: JSONObject = {
        "systemPrompt": "",
        "memory": _memory(given),
        "limits": _limits(given),
        "supervision": _supervision(given),
    }
    model = _text(given, "model", 64)
    if model:
        config["model"] = model
    permissions = _permissions(given)
    config["systemPrompt"], prompt = _prompt(given, folder, read, name, description)
    return Definition(name, description, config, prompt, permissions)


def _load(raw: bytes) -> JSONObject:
    if len(raw) > MAX_BYTES:
        raise invalid("$", "must be at most 256 KiB")
    try:
        given = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise invalid("$", "must be JSON in UTF-8") from exc
    if not isinstance(given, dict):
        raise invalid("$", "must be an object")
    return given


def _text(given: JSONObject, name: str, most: int, *, required: bool = False) -> str:
    value = given.get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise invalid(name, "is required")
    if not isinstance(value, str):
        raise invalid(name, "must be a string")
    _check_characters(name, value)
    if required and not value.strip():
        raise invalid(name, "must not be empty")
    if len(value) > most:
        raise invalid(name, f"must be at most {most} characters")
    return value


def _check_characters(path: str, text: str) -> None:
    # Postgres stores neither; json.loads lets both through.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise invalid(path, "contains a character that cannot be stored")


def _prompt(
    given: JSONObject, folder: str, read: ReadFile, name: str, description: str | None
) -> tuple[str, str]:
    declared = given.get("systemPrompt")
    if declared is None:
        text = f"You are {name}." + (f" {description}" if description else "")
        return text, text
    if not isinstance(declared, str):
        raise invalid("systemPrompt", "must be a string")
    _check_characters("systemPrompt", declared)
    if not _is_path(declared):
        if len(declared.encode()) > MAX_BYTES:
            raise invalid("systemPrompt", "must be at most 256 KiB")
        return declared, declared
    return declared, _prompt_file(declared.strip(), folder, read)


def _is_path(declared: str) -> bool:
    text = declared.strip()
    one_line = "\n" not in text
    return text.startswith("./") or (one_line and text.endswith((".md", ".txt")))


def _prompt_file(declared: str, folder: str, read: ReadFile) -> str:
    for base in dict.fromkeys((folder, "")):
        path = posixpath.normpath(posixpath.join(base, declared))
        if path.startswith(("/", "../")) or path == "..":
            raise invalid("systemPrompt", "must stay inside the archive")
        raw = read(path)
        if raw is None:
            continue
        if len(raw) > MAX_BYTES:
            raise invalid("systemPrompt", "must be at most 256 KiB")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise invalid("systemPrompt", "must be UTF-8") from exc
        _check_characters("systemPrompt", text)
        return text
    raise invalid("systemPrompt", f"file '{declared}' is not in the archive")


def _object(given: JSONObject, name: str) -> JSONObject:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value


def _memory(given: JSONObject) -> JSONObject:
    enabled = _object(given, "memory").get("enabled", False)
    if not isinstance(enabled, bool):
        raise invalid("memory.enabled", "must be a boolean")
    return {"enabled": enabled}


def _limits(given: JSONObject) -> JSONObject:
    limits = _object(given, "limits")
    result: JSONObject = {}
    for name, (default, low, high) in LIMITS.items():
        value = limits.get(name)
        if value is None:
            value = default
        elif not _is_int(value) or not low <= value <= high:
            raise invalid(f"limits.{name}", f"must be an integer from {low} to {high}")
        if value is not None:
            result[name] = value
    return result


def _is_int(value: Any) -> bool:  # Any: a JSON value
    return isinstance(value, int) and not isinstance(value, bool)


def _supervision(given: JSONObject) -> JSONObject:
    if given.get("supervision") is None:
        return {"mode": "autonomous", "policies": []}
    supervision = _object(given, "supervision")
    mode = supervision.get("mode")
    if mode is None:
        raise invalid("supervision.mode", "is required")
    if mode not in MODES:
        raise invalid("supervision.mode", "must be 'autonomous', 'supervised' or 'strict'")
    policies = supervision.get("policies")
    if policies is None:
        policies = []
    if not isinstance(policies, list):
        raise invalid("supervision.policies", "must be an array")
    checked = [_policy(p, f"supervision.policies[{i}]") for i, p in enumerate(policies)]
    return {"mode": mode, "policies": checked}


def _policy(given: Any, path: str) -> JSONObject:  # Any: a JSON value
    if not isinstance(given, dict):
        raise invalid(path, "must be an object")
    action = given.get("action")
    if action is None:
        raise invalid(f"{path}.action", "is required")
    if not isinstance(action, str) or not action:
        raise invalid(f"{path}.action", "must be a non-empty string")
    result: JSONObject = {"action": action}
    entity = given.get("entity")
    if entity is not None:
        if not isinstance(entity, str) or not entity:
            raise invalid(f"{path}.entity", "must be a non-empty string")
        result["entity"] = entity
    requires = given.get("requires")
    if requires is not None:
        if requires != "approval":
            raise invalid(f"{path}.requires", "must be 'approval'")
        result["requires"] = requires
    if given.get("rateLimit") is not None:
        result["rateLimit"] = _rate_limit(given["rateLimit"], f"{path}.rateLimit")
    return result


def _rate_limit(given: Any, path: str) -> JSONObject:  # Any: a JSON value
    if not isinstance(given, dict):
        raise invalid(path, "must be an object")
    most = given.get("max")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise invalid(f"{path}.max", "must be an integer from 1")
    window = given.get("window")
    text = str(window) if _is_int(window) else window
    if not isinstance(text, str) or window_seconds(text) is None:
        raise invalid(
            f"{path}.window", "must be a number of seconds or like '30s', '10m', '2h', '1d'"
        )
    return {"max": most, "window": text}


def _permissions(given: JSONObject) -> tuple[str, ...]:
    keys: Sequence[Any] | None = given.get("permissions")
    if keys is None:
        return ()
    if not isinstance(keys, list):
        raise invalid("permissions", "must be an array")
    for position, key in enumerate(keys):
        path = f"permissions[{position}]"
        if not isinstance(key, str) or not is_key(key):
            raise invalid(path, "must be a permission key")
        if key == "*" or key.startswith("admin:"):
            raise invalid(path, f"'{key}' cannot be granted to an agent")
    return tuple(dict.fromkeys(keys))
