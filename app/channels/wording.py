"""What the platform says in chats, and how long texts are cut.

Source: REST contract part 40, sections 7.3 to 7.5.
"""

from __future__ import annotations

import json
from typing import Any

LINKED = "Your account is linked."
BAD_LINK = "This link is invalid or has expired."
BEGIN = "Send me a message to begin."
NEW_SESSION = "A new session has started."
NO_AGENTS = "No agent is available to you."
CHOOSE_AGENT = "Choose an agent:"
UNKNOWN_AGENT = "There is no such agent."
AGENT_GONE = "The agent is not available."
NOT_YOURS = "You may not use this agent."
BUSY = "Please wait, I am still working."
NO_LINK = (
    "Please link your account first: open Channels in the web interface, choose "
    '"Link my account" and follow the link.'
)
APPROVED = "Approved"
DENIED = "Denied"
MAY_NOT_DECIDE = "You may not decide this."
CLOSED = "This request is already closed."
DENIAL_REASON = "denied in chat"
APPROVE_LABEL = "Approve"
DENY_LABEL = "Deny"

MAX_ARGUMENTS = 1500


def talking_to(name: str) -> str:
    """Return the answer to the choice of an agent."""
    return f"You are now talking to {name}."


def failed(error: str) -> str:
    """Return what is said about a run that failed."""
    return f"Something went wrong: {error}"


def arguments(value: Any) -> str:  # Any: a JSON value
    """Return the arguments of a tool call as they are shown."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= MAX_ARGUMENTS else text[: MAX_ARGUMENTS - 1] + "…"


def units(text: str) -> int:
    """Return the length of a text as providers count it, in UTF-16 units."""
    return len(text) + sum(1 for char in text if ord(char) > 0xFFFF)


def split(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most ``limit`` units, at ends of lines or words if possible."""
    parts = []
    rest = text.strip("\n")
    while units(rest) > limit:
        most = _longest(rest, limit)
        # An end of a line is worth a part that is half as long, an end of a word any.
        cut = rest.rfind("\n", most // 2, most + 1)
        cut = max(rest.rfind(char, 1, most + 1) for char in "\n ") if cut <= 0 else cut
        cut = most if cut <= 0 else cut
        parts.append(rest[:cut].rstrip())
        rest = rest[cut + 1 :] if rest[cut] in "\n " else rest[cut:]
    if rest.strip():
        parts.append(rest)
    return [part for part in parts if part.strip()]


def _longest(text: str, limit: int) -> int:
    """Return how many characters of a text take at most ``limit`` units."""
    found = text[:limit]
    while units(found) > limit:
        found = found[: -max(1, (units(found) - limit) // 2)]
    return len(found)
