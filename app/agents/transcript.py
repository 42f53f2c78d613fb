"""Building blocks of a provider-neutral transcript (contract part 40, section 1.8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

JSONObject = dict[str, Any]  # Any: JSON values

MAX_RESULT_CHARS = 65_536
MAX_OUTPUT_BYTES = 1024 * 1024
KEPT_RESULTS = 4
CUT_NOTE = "\n[result cut: it was longer than 65536 characters]"
PLACEHOLDER = "[an older result was removed to save space; call the tool again if you need it]"


def text(value: str) -> JSONObject:
    """Return a text block."""
    return {"type": "text", "text": value}


def user(*blocks: JSONObject) -> JSONObject:
    """Return a message of the user's side."""
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: JSONObject) -> JSONObject:
    """Return a message of the model."""
    return {"role": "assistant", "content": list(blocks)}


def tool_use(call_id: str, provider_id: str, name: str, given: JSONObject) -> JSONObject:
    """Return the block of a call the model asked for."""
    return {
        "type": "tool_use",
        "id": call_id,
        "provider_id": provider_id,
        "name": name,
        "input": given,
    }


def tool_result(call_id: str, provider_id: str, content: str, *, is_error: bool) -> JSONObject:
    """Return the block of a call's result."""
    return {
        "type": "tool_result",
        "tool_use_id": call_id,
        "provider_id": provider_id,
        "content": content,
        "is_error": is_error,
    }


def clean(value: Any) -> Any:  # Any: a JSON value
    """Return a value without the characters that cannot be stored: NUL and half surrogates.

    Models and apps may send them; Postgres takes neither.
    """
    if isinstance(value, str):
        text = value.replace("\0", "")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


def cleaned_object(value: Any) -> JSONObject | None:  # Any: a JSON value
    """Return the arguments of a call without such characters; None when they are no object.

    Arguments nested beyond all reason count as none.
    """
    if not isinstance(value, dict):
        return None
    try:
        cleaned: JSONObject = clean(value)
    except RecursionError:
        return None
    return cleaned


def compact(value: Any) -> str:  # Any: a JSON value
    """Return compact JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def result_text(value: Any) -> str:  # Any: a JSON value
    """Return what the model gets to read of a result."""
    full = compact(value)
    return full if len(full) <= MAX_RESULT_CHARS else full[:MAX_RESULT_CHARS] + CUT_NOTE


def stored_output(value: Any) -> Any:  # Any: a JSON value
    """Return what is stored and streamed of a result: itself, or its cut text."""
    full = compact(value).encode()
    if len(full) <= MAX_OUTPUT_BYTES:
        return value
    return full[:MAX_OUTPUT_BYTES].decode(errors="ignore")


def call_hash(tool: str, arguments: Any) -> str:  # Any: a JSON value
    """Return the fingerprint of one exact call; an approval is bound to it."""
    canonical = json.dumps([tool, arguments], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def estimated_tokens(messages: Sequence[JSONObject], *texts: str) -> int:
    """Return a guess of a request's size: a quarter of its characters, 1000 for a picture."""
    characters = sum(len(item) for item in texts)
    for message in messages:
        characters += sum(_characters(block) for block in message["content"])
    return characters // 4


def _characters(block: JSONObject) -> int:
    kind = block["type"]
    if kind == "text":
        return len(block["text"])
    if kind == "tool_use":
        return len(compact(block["input"])) + len(block["name"])
    if kind == "tool_result":
        return len(block["content"])
    return 4000


def without_old_results(messages: Sequence[JSONObject]) -> list[JSONObject]:
    """Return the messages with all tool results but the last four replaced by a line."""
    total = sum(b["type"] == "tool_result" for m in messages for b in m["content"])
    seen = 0
    slim: list[JSONObject] = []
    for message in messages:
        blocks = []
        for block in message["content"]:
            if block["type"] == "tool_result":
                seen += 1
                if seen <= total - KEPT_RESULTS:
                    block = {**block, "content": PLACEHOLDER}  # noqa: PLW2901 - a changed copy
            blocks.append(block)
        slim.append({**message, "content": blocks})
    return slim
