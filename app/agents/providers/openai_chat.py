"""OpenAI Chat Completions and every server that speaks it, through the official library.

Source: REST contract part 40, section 2.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

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

DEFAULT_BASE_URL = "https://api.openai.com/v1"
USAGE = ("prompt_tokens", "completion_tokens")
STOPS = {
    "length": Stop.LENGTH,
    "content_filter": Stop.REFUSED,
    "tool_calls": Stop.TOOLS,
    "function_call": Stop.TOOLS,
}


def make_client(config: ModelConfig) -> openai.OpenAI:
    """Return the library's client of one model."""
    return openai.OpenAI(
        api_key=config.api_key or "none",
        base_url=config.base_url or DEFAULT_BASE_URL,
        max_retries=0,
        default_headers=dict(config.headers),
        http_client=transport.http_client(config),
    )


class OpenAIChat:
    """A model behind ``POST {base_url}/chat/completions``."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._client = make_client(config)

    def close(self) -> None:
        """Give up connections."""
        self._client.close()

    def complete(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Call the model once, handing text on as it arrives."""
        try:
            return self._complete(request, on_text)
        except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as exc:
            raise transport.translated(exc, self._config) from exc

    def _complete(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        create: Any = self._client.chat.completions.with_streaming_response.create
        with create(**_body(self._config, request)) as response:
            answer = _Answer(on_text)
            if transport.is_json(response.headers):
                answer.take_whole(json.loads(response.read()))
                return answer.reply()
            for chunk in transport.before_deadline(response.parse(), self._config):
                answer.take(chunk)
            return answer.reply()


def _body(config: ModelConfig, request: ModelRequest) -> JSONObject:
    # Servers of others know the older name of the limit, the newest models of OpenAI only this one.
    limit = "max_completion_tokens" if config.base_url is None else "max_tokens"
    body: JSONObject = {
        "model": config.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: config.max_tokens,
        "messages": _messages(request),
        **transport.optional(config),
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": t.name,
                    "description": t.description,
                    "parameters": t.input_schema,
                },
            }
            for t in request.tools
        ]
    return body


def _messages(request: ModelRequest) -> list[JSONObject]:
    messages: list[JSONObject] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for message in request.messages:
        if message["role"] == "assistant":
            messages.append(_assistant(message["content"]))
        else:
            messages.extend(_user(message["content"]))
    return messages


def _assistant(blocks: list[JSONObject]) -> JSONObject:
    text = "".join(b["text"] for b in blocks if b["type"] == "text")
    calls = [
        {
            "id": b.get("provider_id") or b["id"],
            "type": "function",
            "function": {"name": b["name"], "arguments": json.dumps(b["input"])},
        }
        for b in blocks
        if b["type"] == "tool_use"
    ]
    message: JSONObject = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    return message


def _user(blocks: list[JSONObject]) -> list[JSONObject]:
    results: list[JSONObject] = [
        {
            "role": "tool",
            "tool_call_id": b.get("provider_id") or b["tool_use_id"],
            "content": b["content"],
        }
        for b in blocks
        if b["type"] == "tool_result"
    ]
    parts = [_part(b) for b in blocks if b["type"] != "tool_result"]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}] if parts else results


def _part(block: JSONObject) -> JSONObject:
    if block["type"] == "image":
        url = f"data:{block['media_type']};base64,{block['data']}"
        return {"type": "image_url", "image_url": {"url": url}}
    if block["type"] == "document":
        data = f"data:{block['media_type']};base64,{block['data']}"
        return {"type": "file", "file": {"filename": block["name"], "file_data": data}}
    return {"type": "text", "text": block["text"]}


@dataclass(slots=True)
class _Tool:
    provider_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)


class _Answer:
    """Puts the chunks of one stream together."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._text: list[str] = []
        self._tools: dict[int, _Tool] = {}
        self._tokens: int | None = None
        self._finish: str | None = None

    def take(self, chunk: Any) -> None:  # Any: the library's chunk
        tokens = total_tokens(read(chunk, "usage"), *USAGE)
        self._tokens = self._tokens if tokens is None else tokens
        for choice in read(chunk, "choices", ()):
            if read(choice, "index", 0) != 0:
                continue
            self._content(read(choice, "delta"))
            self._finish = read(choice, "finish_reason", self._finish)

    def take_whole(self, body: Any) -> None:  # Any: parsed JSON
        choices = read(body, "choices")
        if not isinstance(choices, list) or not choices:
            raise ProviderError("malformed answer", retryable=True)
        self._tokens = total_tokens(read(body, "usage"), *USAGE)
        self._content(read(choices[0], "message"))
        self._finish = read(choices[0], "finish_reason", "stop")

    def _content(self, delta: Any) -> None:  # Any: a delta or a message
        text = read(delta, "content", "")
        if isinstance(text, str) and text:
            self._text.append(text)
            self._on_text(text)
        for position, call in enumerate(read(delta, "tool_calls", ())):
            self._call(read(call, "index", position), call)

    def _call(self, index: int, call: Any) -> None:  # Any: a (partial) tool call
        tool = self._tools.setdefault(index, _Tool())
        function = read(call, "function")
        tool.provider_id = tool.provider_id or read(call, "id", "")
        tool.name = tool.name or read(function, "name", "")
        arguments = read(function, "arguments", "")
        # Some servers send the arguments as an object although the format says text.
        tool.pieces.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def reply(self) -> ModelReply:
        if self._finish is None:
            raise transport.early_end()
        uses = [
            ToolUse(tool.provider_id, tool.name, parse_arguments("".join(tool.pieces)))
            for _, tool in sorted(self._tools.items())
        ]
        return ModelReply(
            text="".join(self._text),
            tool_uses=tuple(uses),
            tokens=self._tokens,
            stop=STOPS.get(self._finish, Stop.END),
        )
