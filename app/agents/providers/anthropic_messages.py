"""Anthropic Messages, through the official library.

Source: REST contract part 40, section 2.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2

from app.agents.providers import transport
from app.agents.providers.base import (
    JSONObject,
    ModelConfig,
    ModelReply,
    ModelRequest,
    OnText,
    ProviderError,
    Stop,
    ToolUse,
    parse_arguments,
    read,
    total_tokens,
)

DEFAULT_BASE_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
USAGE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
STOPS = {"max_tokens": Stop.LENGTH, "refusal": Stop.REFUSED, "tool_use": Stop.TOOLS}


class AnthropicMessages:
    """A model behind ``POST {base_url}/v1/messages``."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._client = anthropic.Anthropic(
            api_key=config.api_key or "none",
            base_url=config.base_url or DEFAULT_BASE_URL,
            max_retries=0,
            default_headers={"anthropic-version": API_VERSION, **config.headers},
            http_client=transport.http_client(config),
        )

    def close(self) -> None:
        """Give up connections."""
        self._client.close()

    def complete(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Call the model once, handing text on as it arrives."""
        try:
            return self._complete(request, on_text)
        except (anthropic.AnthropicError, httpx2.HTTPError, json.JSONDecodeError) as exc:
            raise transport.translated(exc, self._config) from exc

    def _complete(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        create: Any = self._client.messages.with_streaming_response.create  # Any: typed dicts
        with create(stream=True, **_body(self._config, request)) as response:
            if transport.is_json(response.headers):
                return _whole(json.loads(response.read()), on_text)
            answer = _Answer(on_text)
            for event in transport.before_deadline(response.parse(), self._config):
                answer.take(event)
            return answer.reply()


def _body(config: ModelConfig, request: ModelRequest) -> JSONObject:
    body: JSONObject = {
        "model": config.model,
        "max_tokens": config.max_tokens,
        "messages": [_message(message) for message in request.messages],
        **transport.optional(config),
    }
    if request.system:
        body["system"] = request.system
    if request.tools:
        body["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": t.input_schema}
            for t in request.tools
        ]
    # The library has no parameter for the temperature of its newest models, the API has one.
    temperature = body.pop("temperature", None)
    if temperature is not None:
        body["extra_body"] = {"temperature": temperature}
    return body


def _message(message: JSONObject) -> JSONObject:
    return {"role": message["role"], "content": [_block(b) for b in message["content"]]}


def _block(block: JSONObject) -> JSONObject:
    kind = block["type"]
    if kind == "tool_use":
        return {
            "type": "tool_use",
            "id": block.get("provider_id") or block["id"],
            "name": block["name"],
            "input": block["input"],
        }
    if kind == "tool_result":
        return {
            "type": "tool_result",
            "tool_use_id": block.get("provider_id") or block["tool_use_id"],
            "content": block["content"],
            "is_error": bool(block.get("is_error")),
        }
    if kind in {"image", "document"}:
        source = {"type": "base64", "media_type": block["media_type"], "data": block["data"]}
        return {"type": kind, "source": source}
    return {"type": "text", "text": block["text"]}


@dataclass(slots=True)
class _Tool:
    provider_id: str
    name: str
    given: JSONObject | None
    pieces: list[str] = field(default_factory=list)

    def use(self) -> ToolUse:
        given = self.given if self.given and not self.pieces else None
        arguments = parse_arguments("".join(self.pieces)) if given is None else given
        return ToolUse(self.provider_id, self.name, arguments)


class _Answer:
    """Puts the events of one stream together."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._text: list[str] = []
        self._tools: dict[int, _Tool] = {}
        self._usage: dict[str, int] = {}
        self._stop: str | None = None
        self._complete = False

    def take(self, event: Any) -> None:  # Any: the library's union of events
        kind = read(event, "type", "")
        if kind == "message_start":
            self._count(read(read(event, "message"), "usage"))
        elif kind == "content_block_start":
            self._start(read(event, "index", 0), read(event, "content_block"))
        elif kind == "content_block_delta":
            self._delta(read(event, "index", 0), read(event, "delta"))
        elif kind == "message_delta":
            self._stop = read(read(event, "delta"), "stop_reason")
            self._count(read(event, "usage"))
        elif kind == "message_stop":
            self._complete = True

    def _start(self, index: int, block: Any) -> None:  # Any: as in take
        if read(block, "type") == "tool_use":
            given = read(block, "input", {})
            self._tools[index] = _Tool(
                read(block, "id", ""),
                read(block, "name", ""),
                given if isinstance(given, dict) else None,
            )
        elif read(block, "type") == "text":
            self._say(read(block, "text", ""))

    def _delta(self, index: int, delta: Any) -> None:  # Any: as in take
        if read(delta, "type") == "text_delta":
            self._say(read(delta, "text", ""))
        elif read(delta, "type") == "input_json_delta" and index in self._tools:
            self._tools[index].pieces.append(read(delta, "partial_json", ""))

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._on_text(text)

    def _count(self, usage: Any) -> None:  # Any: as in take
        for name in USAGE:
            value = read(usage, name)
            if isinstance(value, int):
                self._usage[name] = value

    def reply(self) -> ModelReply:
        if not (self._complete or self._stop):
            raise transport.early_end()
        uses = (self._tools[index].use() for index in sorted(self._tools))
        return ModelReply(
            text="".join(self._text),
            tool_uses=tuple(uses),
            tokens=total_tokens(self._usage, *USAGE),
            stop=STOPS.get(self._stop or "", Stop.END),
        )


def _whole(body: Any, on_text: OnText) -> ModelReply:  # Any: parsed JSON
    blocks: Iterable[Any] = read(body, "content")
    if not isinstance(blocks, list):
        raise ProviderError("malformed answer", retryable=True)
    text = "".join(read(b, "text", "") for b in blocks if read(b, "type") == "text")
    if text:
        on_text(text)
    uses = [
        ToolUse(read(b, "id", ""), read(b, "name", ""), _object(read(b, "input", {})))
        for b in blocks
        if read(b, "type") == "tool_use"
    ]
    return ModelReply(
        text=text,
        tool_uses=tuple(uses),
        tokens=total_tokens(read(body, "usage"), *USAGE),
        stop=STOPS.get(read(body, "stop_reason", ""), Stop.END),
    )


def _object(value: Any) -> JSONObject | None:  # Any: parsed JSON
    return value if isinstance(value, dict) else None
