"""Choose a provider's client, and call it with patience.

The libraries load on first use: only processes that run agents pay for them.
"""

from __future__ import annotations

import queue
import random
import threading
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

LOOK_S = 0.1

Wait = Callable[[float], None]
Check = Callable[[], None]


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
    provider: Provider,
    request: ModelRequest,
    on_text: OnText,
    *,
    wait: Wait,
    check: Check = lambda: None,
) -> ModelReply:
    """Call a model, again up to three times while none of its text was handed on.

    Args:
        provider: client of the model.
        request: what to send.
        on_text: gets text as it arrives.
        wait: sleeps; may raise to give the call up.
        check: looked at several times a second; may raise to give the call up.

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
            return _aside(provider, request, hear, check)
        except ProviderError as exc:
            if heard or not exc.retryable:
                raise
            asked = exc.retry_after_s
        if asked is None:
            wait(delay_s + random.uniform(0, JITTER_S))  # noqa: S311 - not a secret
        else:
            wait(min(asked, MAX_RETRY_AFTER_S))
    return _aside(provider, request, hear, check)


class _GivenUp(Exception):
    """Nobody waits for the answer any more."""


def _aside(provider: Provider, request: ModelRequest, on_text: OnText, check: Check) -> ModelReply:
    """Call a model on a thread of its own: a silent server must not keep a run from leaving."""
    inbox: queue.SimpleQueue[str | ModelReply | BaseException] = queue.SimpleQueue()
    given_up = threading.Event()

    def hear(text: str) -> None:
        if given_up.is_set():
            raise _GivenUp
        inbox.put(text)

    def call() -> None:
        try:
            inbox.put(provider.complete(request, hear))
        except BaseException as exc:
            # Whatever it is belongs to the waiting thread.
            inbox.put(exc)

    threading.Thread(target=call, name="model-call", daemon=True).start()
    try:
        while True:
            item = _next(inbox, check)
            if isinstance(item, ModelReply):
                return item
            if isinstance(item, BaseException):
                raise item
            on_text(item)
    finally:
        given_up.set()


def _next(
    inbox: queue.SimpleQueue[str | ModelReply | BaseException], check: Check
) -> str | ModelReply | BaseException:
    while True:
        try:
            return inbox.get(timeout=LOOK_S)
        except queue.Empty:
            check()
