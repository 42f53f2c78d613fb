"""Gates: what a caller needs before a view runs. Every route method has exactly one.

Source: REST contract part 10, section 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from app.core.actor import Actor

F = TypeVar("F", bound=Callable[..., Any])  # Any: a view method takes what its route captures


@dataclass(frozen=True, slots=True)
class Gate:
    """A requirement on the caller.

    Attributes:
        text: the requirement in the words of the contract's endpoint list.
        public: no token is looked at.
        nobody: a request without a token passes; the view's service lets it do what the app's
            manifest declares public, and nothing else.
        check: raises ``Forbidden``; gets the actor and the captured path values.
        deferred: the view lets the node that does the work read the caller's rights, and calls
            ``View.authorize`` wherever it answers without a node.
        by_memory: the view is first tried with the rights this process remembers; see
            ``View.by_memory``.
    """

    text: str
    public: bool = False
    nobody: bool = False
    check: Callable[[Actor, Mapping[str, Any]], None] | None = None  # Any: path converters
    deferred: bool = False
    by_memory: bool = False

    def __call__(self, method: F) -> F:
        """Attach this gate to a view method. Must be the outermost decorator."""
        method.__gate__ = self  # type: ignore[attr-defined]
        if not self.public:
            apidoc = deepcopy(getattr(method, "_apidoc", {}))
            apidoc.setdefault("manual_doc", {})["security"] = [{"bearer": []}]
            method._apidoc = apidoc  # type: ignore[attr-defined]
        return method


public = Gate("public", public=True)
signed_in = Gate("signed-in")
admin = Gate("admin", check=lambda actor, _path: actor.require_admin())


def permission(
    template: str, *, deferred: bool = False, nobody: bool = False, by_memory: bool = False
) -> Gate:
    """Require a key; ``{name}`` stands for a captured path value (``app:{app_id}:invoke``)."""
    return Gate(
        template,
        nobody=nobody,
        check=lambda actor, path: actor.require(template.format(**path)),
        deferred=deferred,
        by_memory=by_memory,
    )


def in_service(text: str, *, nobody: bool = False, by_memory: bool = False) -> Gate:
    """Require a signed-in caller; the service checks the rest in the order the contract gives."""
    return Gate(text, nobody=nobody, by_memory=by_memory)


def gate_of(method: Callable[..., Any]) -> Gate:  # Any: as F
    """Return the gate of a view method.

    Raises:
        LookupError: it has none, which is a bug a guard test finds.
    """
    gate: Gate | None = getattr(method, "__gate__", None)
    if gate is None:
        raise LookupError(f"{method.__qualname__} has no gate")
    return gate
