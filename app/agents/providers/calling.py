"""Choose a provider's client, and call it with patience.

The libraries load on first use: only processes that run agents pay for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module

from app.agents.providers.base import (
    ModelConfig,
    ModelReply,
    ModelRequest,
    OnText,
    Provider,
    ProviderError,
)

DELAYS_S = (1.0, 2.0, 4.0)
MAX_RETRY_AFTER_S = 60.0
JITTER_S = 0.25

Wait = Callable[[float], None]


def open_provider(config: ModelConfig) -> Provider:
    """Return a client of a configured model."""
    if config.api == "messages":
        from app.agents.providers.anthropic_messages import AnthropicMessages

        return AnthropicMessages(config)
    if config.api == "responses":
        from app.agents.providers.openai_responses import OpenAIResponses

        return OpenAIResponses(config)
    from app.agents.providers.openai_chat import OpenAIChat

    return OpenAIChat(config)


def load_library(provider: str) -> None:
    """Import what a provider's client needs, which takes a second or two."""
    name = "anthropic_messages" if provider == "anthropic" else "openai_chat"
    import_module(f"app.agents.providers.{name}")


def complete(
    provider: Provider, request: ModelRequest, on_text: OnText, *, wait: Wait
) -> ModelReply:
    """Call a model, again up to three times while none of its text was handed on.

    Args:
        provider: client of the model.
        request: what to send.
        on_text: gets text as it arrives.
        wait: sleeps; may raise to give the call up.

    Raises:
        ProviderError: the last attempt failed.

    Source: REST contract part 40, section 2.2.
    """
    heard = False

    def hear(text: str) -> None:
        nonlocal heard
        heard = True
        on_text(text)

    for delay_s in DELAYS_S:
        try:
            return provider.complete(request, hear)
        except ProviderError as exc:
            if heard or not exc.retryable:
                raise
            asked = exc.retry_after_s
        if asked is None:
            wait(delay_s + random.uniform(0, JITTER_S))  # noqa: S311 - not a secret
        else:
            wait(min(asked, MAX_RETRY_AFTER_S))
    return provider.complete(request, hear)
