"""The one error of the embedded servers."""

from __future__ import annotations


class EmbeddedError(Exception):
    """An embedded server cannot be used; the text is one sentence for the operator."""
