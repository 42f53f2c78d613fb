"""Routes whose URLs are never built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from werkzeug.routing import Rule


class MatchingRule(Rule):
    """A route that writes the function that builds its URL when somebody wants a URL.

    Werkzeug generates and compiles two such functions per route, which is four fifths of the time
    that making the app takes; nothing but redirects of Werkzeug's own asks for them.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compile_now = super()._compile_builder
        built: list[Callable[..., tuple[str, str]]] = []

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:  # Any: a URL's variables
            if not built:
                built.append(compile_now(append_unknown))
            return built[0](rule, **values)

        return build
