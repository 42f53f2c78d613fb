"""What every model provider is asked and answers, whatever its wire format.

Messages are provider-neutral (contract part 40, section 1.8)::

    {"role": "user" | "assistant", "content": [block, ...]}

with the blocks ``text {text}``, ``tool_use {id, provider_id, name, input}``,
``tool_result {tool_use_id, content, is_error}``, ``image {media_type, data}`` and
``document {media_type, data, name}``; ``data`` is base64. ``tool_use.id`` is ours,
``provider_id`` the provider's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

JSONObject = dict[str, Any]  # Any: JSON values
OnText = Callable[[str], None]

NO_BYTE_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 10.0


class Stop(StrEnum):
    """Why a model stopped."""

    END = "end"
    TOOLS = "tools"
    LENGTH = "length"
    REFUSED = "refused"


class ProviderError(Exception):
    """A model call failed.

    Attributes:
        reason: status or short reason; never a key, never a provider's own text.
        retryable: whether the same call may succeed later.
        retry_after_s: what the provider asked for.
    """

    def __init__(
        self, reason: str, *, retryable: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it."""

    name: str
    description: str
    input_schema: JSONObject


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything needed to call one model.

    Attributes:
        api: ``messages`` (anthropic), ``chat`` or ``responses`` (openai).
        base_url: None = the provider's own service.
        api_key: None = no authentication header is sent.
    """

    provider: str
    model: str
    api: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_tokens: int = 4096
    temperature: float | None = None
    timeout_s: float = 300.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    supports_images: bool = True
    supports_documents: bool = True


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call."""

    system: str
    messages: Sequence[JSONObject]
    tools: Sequence[ToolSpec] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call the model asks for.

    Attributes:
        input: None when the arguments were not a JSON object.
    """

    provider_id: str
    name: str
    input: JSONObject | None


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A model's complete answer.

    Attributes:
        tokens: input + output; None when the provider did not say.
    """

    text: str
    tool_uses: tuple[ToolUse, ...] = ()
    tokens: int | None = None
    stop: Stop = Stop.END


class Provider(Protocol):
    """A client of one configured model."""

    def complete(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Call the model once, handing text on as it arrives.

        Whatever ``on_text`` raises ends the call and is passed on.

        Raises:
            ProviderError: the call failed.
        """

    def close(self) -> None:
        """Give up connections."""


def parse_arguments(text: str) -> JSONObject | None:
    """Return tool arguments; None when they are not a JSON object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def total_tokens(usage: Any, *names: str) -> int | None:  # Any: a library's usage object or dict
    """Return the sum of the named counts; None when the provider gave none."""
    if usage is None:
        return None
    counts = [read(usage, name) for name in names]
    known = [int(count) for count in counts if isinstance(count, int | float)]
    return sum(known) if known else None


def read(value: Any, name: str, default: Any = None) -> Any:  # Any: objects of two libraries
    """Return an attribute or item that a lenient server may have left out."""
    found = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return default if found is None else found


def assembled(parts: Sequence[str]) -> str:
    """Return streamed pieces as one text."""
    return "".join(parts)
