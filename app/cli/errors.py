"""Errors that the command line prints as one sentence."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot go on; the text is one sentence for the operator."""
