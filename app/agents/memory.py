"""What an agent remembers of its session, and how it is kept short.

Source: REST contract part 40, section 1.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.agents import transcript
from app.agents.models import AgentMessage

JSONObject = dict[str, Any]  # Any: JSON values

FULL = 0.8
SUMMARY_PROMPT = (
    "Summarise the conversation so far for your own later use. Keep decisions, names, record ids "
    "and open tasks. Leave out small talk. Answer with the summary only."
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """One message of the history."""

    seq: int
    role: str
    content: str
    is_summary: bool = False


def history(session: Session, session_id: UUID, *, before_run: UUID) -> list[Remembered]:
    """Return the newest summary, if any, and every later message that is none.

    Args:
        session: an open transaction.
        session_id: the session.
        before_run: the run that asks; its own messages are no history.
    """
    rows = session.scalars(
        select(AgentMessage).where(AgentMessage.session_id == session_id).order_by(AgentMessage.seq)
    ).all()
    summaries = [row for row in rows if row.is_summary]
    covered = (summaries[-1].covers_seq or 0) if summaries else 0
    later = [
        Remembered(row.seq, row.role, row.content)
        for row in rows
        if not row.is_summary and row.seq > covered and row.run_id != before_run
    ]
    if not summaries:
        return later
    newest = summaries[-1]
    return [Remembered(covered, "system", newest.content, is_summary=True), *later]


def as_messages(remembered: Sequence[Remembered]) -> list[JSONObject]:
    """Return the history as messages for a model."""
    messages = []
    for item in remembered:
        if not item.content:
            continue
        if item.is_summary:
            text = f"Summary of our earlier conversation:\n{item.content}"
            messages.append(transcript.user(transcript.text(text)))
        elif item.role == "assistant":
            messages.append(transcript.assistant(transcript.text(item.content)))
        else:
            messages.append(transcript.user(transcript.text(item.content)))
    return messages


def merged(messages: Sequence[JSONObject]) -> list[JSONObject]:
    """Join neighbours of one role: some providers want the roles to alternate."""
    result: list[JSONObject] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            joined = [*result[-1]["content"], *message["content"]]
            result[-1] = {"role": message["role"], "content": joined}
        else:
            result.append(message)
    return result


def to_summarise(
    remembered: Sequence[Remembered], keep: int
) -> tuple[list[Remembered], list[Remembered]]:
    """Split a history into what is to be summarised and what stays word for word."""
    border = len(remembered) - keep
    return list(remembered[:border]), list(remembered[border:])


def conversation(older: Sequence[Remembered]) -> str:
    """Return messages as text to be summarised."""
    return "\n\n".join(f"{item.role}: {item.content}" for item in older if item.content)


def store_summary(
    session: Session, session_id: UUID, run_id: UUID, *, text: str, tokens: int, covers_seq: int
) -> None:
    """Keep a summary and what it stands for."""
    session.add(
        AgentMessage(
            session_id=session_id,
            run_id=run_id,
            role="system",
            content=text,
            token_count=tokens,
            is_summary=True,
            covers_seq=covers_seq,
        )
    )
