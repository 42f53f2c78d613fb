"""OpenAI Responses, through the official library.

Source: REST contract part 40, section 2.2.
"""

from __future__ import annotations

import json
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
from app.agents.providers.openai_chat import make_client

USAGE = ("input_tokens", "output_tokens")
ENDS = frozenset({"response.completed", "response.incomplete"})


class OpenAIResponses:
    """A model behind ``POST {base_url}/responses``; nothing is kept at the provider."""

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
        create: Any = self._client.responses.with_streaming_response.create
        with create(**_body(self._config, request)) as response:
            if transport.is_json(response.headers):
                return _whole(json.loads(response.read()), on_text, heard="")
            said: list[str] = []
            for event in transport.before_deadline(response.parse(), self._config):
                kind = read(event, "type", "")
                if kind == "response.output_text.delta" and read(event, "delta", ""):
                    said.append(event.delta)
                    on_text(event.delta)
                elif kind in ENDS:
                    return _whole(read(event, "response"), on_text, heard="".join(said))
                elif kind in {"response.failed", "error"}:
                    raise ProviderError("the model failed", retryable=True)
            raise transport.early_end()


def _body(config: ModelConfig, request: ModelRequest) -> JSONObject:
    body: JSONObject = {
        "model": config.model,
        "stream": True,
        "store": False,
        "max_output_tokens": config.max_tokens,
        "input": _input(request),
        **transport.optional(config),
    }
    if request.system:
        body["instructions"] = request.system
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": t.name,
                "description": t.description,
                "parameters": t.input_schema,
                "strict": False,
            }
            for t in request.tools
        ]
    return body


def _input(request: ModelRequest) -> list[JSONObject]:
    items: list[JSONObject] = []
    for message in request.messages:
        parts: list[JSONObject] = []
        for block in message["content"]:
            item = _item(block)
            if item is None:
                parts.append(_part(block, message["role"]))
            else:
                items.append(item)
        if parts:
            # Text comes before the calls of the same turn, results before further user text.
            position = len(items)
            if message["role"] == "assistant":
                calls = sum(1 for b in message["content"] if b["type"] == "tool_use")
                position -= calls
            items.insert(position, {"role": message["role"], "content": parts})
    return items


def _item(block: JSONObject) -> JSONObject | None:
    if block["type"] == "tool_use":
        return {
            "type": "function_call",
            "call_id": block.get("provider_id") or block["id"],
            "name": block["name"],
            "arguments": json.dumps(block["input"]),
        }
    if block["type"] == "tool_result":
        return {
            "type": "function_call_output",
            "call_id": block.get("provider_id") or block["tool_use_id"],
            "output": block["content"],
        }
    return None


def _part(block: JSONObject, role: str) -> JSONObject:
    if block["type"] == "image":
        url = f"data:{block['media_type']};base64,{block['data']}"
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if block["type"] == "document":
        data = f"data:{block['media_type']};base64,{block['data']}"
        return {"type": "input_file", "filename": block["name"], "file_data": data}
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": kind, "text": block["text"]}


def _whole(response: Any, on_text: OnText, *, heard: str) -> ModelReply:  # Any: object or JSON
    output = read(response, "output")
    if not isinstance(output, list):
        raise ProviderError("malformed answer", retryable=True)
    text = heard or _text_of(output)
    if text and not heard:
        on_text(text)
    uses = tuple(
        ToolUse(
            read(item, "call_id", "") or read(item, "id", ""),
            read(item, "name", ""),
            parse_arguments(read(item, "arguments", "")),
        )
        for item in output
        if read(item, "type") == "function_call"
    )
    return ModelReply(
        text=text,
        tool_uses=uses,
        tokens=total_tokens(read(response, "usage"), *USAGE),
        stop=_stop(response, bool(uses)),
    )


def _text_of(output: list[Any]) -> str:  # Any: items
    parts = (
        read(part, "text", "")
        for item in output
        if read(item, "type") == "message"
        for part in read(item, "content", ())
        if read(part, "type") == "output_text"
    )
    return "".join(parts)


def _stop(response: Any, tools: bool) -> Stop:  # Any: as above
    if read(response, "status") == "incomplete":
        reason = read(read(response, "incomplete_details"), "reason", "")
        return Stop.REFUSED if reason == "content_filter" else Stop.LENGTH
    return Stop.TOOLS if tools else Stop.END
