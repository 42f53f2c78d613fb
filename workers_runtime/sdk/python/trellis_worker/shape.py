"""How a handler wants to be called, found without the slow ``inspect`` where possible."""

from __future__ import annotations

from types import FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COROUTINE, ASYNC_GENERATOR, GENERATOR, VARARGS = 0x80, 0x200, 0x20, 0x04


class Handler:
    """A callable with what the runner needs to know of it.

    Attributes:
        is_async: it is a coroutine function or an async generator function.
    """

    __slots__ = ("_accepts", "function", "is_async")

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"a handler must be callable, not {type(function).__name__}")
        self.function = function
        self._accepts, self.is_async = _shape(function)

    def __call__(self, *args: object) -> Any:  # Any: whatever the author returns
        """Call it with as many of the arguments as it accepts."""
        return self.function(*args[: self._accepts])


def _shape(function: Callable[..., Any]) -> tuple[int, bool]:
    plain = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(plain, FunctionType) or hasattr(plain, "__wrapped__"):
        return _inspect(function)
    code = plain.__code__
    is_async = bool(code.co_flags & (COROUTINE | ASYNC_GENERATOR))
    if code.co_flags & VARARGS:
        return 99, is_async
    return code.co_argcount - (plain is not function), is_async


def _inspect(function: Callable[..., Any]) -> tuple[int, bool]:
    import inspect

    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    target = inspect.unwrap(target)
    while hasattr(target, "func"):
        target = target.func
    is_async = inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 99, is_async
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 99, is_async
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in parameters), is_async
