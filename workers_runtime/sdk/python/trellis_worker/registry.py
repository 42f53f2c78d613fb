"""The three ways an app registers its handlers; the runner reads the result."""

from __future__ import annotations

from trellis_worker.shape import Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    F = TypeVar("F", bound="Callable[..., Any]")

HOOKS = ("on_job", "on_start", "on_shutdown", "on_error", "agent")
MAX_CONCURRENCY = 64


class Handlers:
    """What an app registered."""

    def __init__(
        self,
        rpc: Mapping[str, Callable[..., Any]] | None = None,
        *,
        max_concurrency: int = 8,
        **hooks: Callable[..., Any] | None,
    ) -> None:
        if not 1 <= max_concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"max_concurrency must be 1-{MAX_CONCURRENCY}")
        unknown = sorted(set(hooks) - set(HOOKS))
        if unknown:
            raise TypeError(f"unknown handler '{unknown[0]}'; known: rpc, {', '.join(HOOKS)}")
        self.rpc = {str(name): Handler(function) for name, function in (rpc or {}).items()}
        self.hooks = {name: Handler(f) for name, f in hooks.items() if f is not None}
        self.max_concurrency = max_concurrency

    def hook(self, name: str) -> Handler | None:
        """Return ``on_job``, ``on_start``, ``on_shutdown``, ``on_error`` or ``agent``."""
        return self.hooks.get(name)


_registered: list[Handlers] = []


def serve(
    *,
    rpc: Mapping[str, Callable[..., Any]] | None = None,
    on_job: Callable[..., Any] | None = None,
    on_start: Callable[..., Any] | None = None,
    on_shutdown: Callable[..., Any] | None = None,
    on_error: Callable[..., Any] | None = None,
    agent: Callable[..., Any] | None = None,
    max_concurrency: int = 8,
) -> None:
    """Register the app's handlers; the runner takes over when the entry file has ended.

    Handlers may take fewer positional parameters than they are offered. ``def`` handlers run in
    a thread pool and get a blocking ``ctx``, ``async def`` handlers an awaitable one.

    Args:
        rpc: method name -> ``(params, caller, ctx)``; the return value is the answer.
        on_job: ``(payload, caller, ctx)`` for jobs and cron ticks.
        on_start: ``(ctx)``, once per process before its first call; must be idempotent.
        on_shutdown: ``()``, within the 5 s grace.
        on_error: ``(exc, where)`` after a handler raised.
        agent: ``(invoke, ctx)``, may be an (async) generator of text.
        max_concurrency: threads for ``def`` handlers, 1-64.

    Raises:
        RuntimeError: it was called before.
    """
    if _registered:
        raise RuntimeError("serve() called twice")
    _registered.append(
        Handlers(
            rpc,
            on_job=on_job,
            on_start=on_start,
            on_shutdown=on_shutdown,
            on_error=on_error,
            agent=agent,
            max_concurrency=max_concurrency,
        )
    )


class App:
    """Handlers registered by decorators; end with ``app.serve()``."""

    def __init__(self) -> None:
        self._rpc: dict[str, Callable[..., Any]] = {}
        self._hooks: dict[str, Callable[..., Any]] = {}

    def rpc(self, name: Any = None) -> Any:  # Any: a decorator with or without a name
        """Register an RPC method: ``@app.rpc`` or ``@app.rpc("otherName")``."""
        if callable(name):
            self._rpc[name.__name__] = name
            return name

        def register(function: F) -> F:
            self._rpc[name or function.__name__] = function
            return function

        return register

    def on_job(self, function: F) -> F:
        """Register the job handler ``(payload, caller, ctx)``."""
        return self._hook("on_job", function)

    def on_start(self, function: F) -> F:
        """Register what runs once per process before its first call: ``(ctx)``."""
        return self._hook("on_start", function)

    def on_shutdown(self, function: F) -> F:
        """Register what runs before the process ends: ``()``."""
        return self._hook("on_shutdown", function)

    def on_error(self, function: F) -> F:
        """Register what is told of failures: ``(exc, where)``."""
        return self._hook("on_error", function)

    def agent(self, function: F) -> F:
        """Register the agent loop ``(invoke, ctx)``."""
        return self._hook("agent", function)

    def serve(self, *, max_concurrency: int = 8) -> None:
        """Hand the handlers to the runner.

        Raises:
            RuntimeError: ``serve`` was called before.
        """
        serve(rpc=self._rpc, max_concurrency=max_concurrency, **self._hooks)

    def _hook(self, name: str, function: F) -> F:
        self._hooks[name] = function
        return function


def registered(module_globals: Mapping[str, Any]) -> Handlers:
    """Return what the app registered, from ``serve`` or its global ``handlers``.

    Raises:
        TypeError: ``handlers`` is not a dict of known names.
    """
    if _registered:
        return _registered[0]
    plain = module_globals.get("handlers")
    if plain is None:
        return Handlers()
    if not isinstance(plain, dict):
        raise TypeError("handlers must be a dict")
    return Handlers(**plain)
