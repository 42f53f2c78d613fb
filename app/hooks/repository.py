"""Rows of hooks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.hooks.models import Hook


def listed(
    session: Session, app_id: str, *, entity: str | None, operation: str | None
) -> list[Hook]:
    """Return the hooks that watch an app, newest first."""
    wanted = select(Hook).where(Hook.app_id == app_id)
    if entity is not None:
        wanted = wanted.where(Hook.entity == entity)
    if operation is not None:
        wanted = wanted.where(Hook.operation == operation.upper())
    newest_first = wanted.order_by(Hook.created_at.desc(), Hook.id.desc())
    return list(session.execute(newest_first).scalars())


def find(session: Session, app_id: str, hook_id: UUID) -> Hook | None:
    """Return a hook of an app."""
    return session.execute(
        select(Hook).where(Hook.id == hook_id, Hook.app_id == app_id)
    ).scalar_one_or_none()


def naming_agent(session: Session, app_id: str) -> list[Hook]:
    """Return the hooks that run an app's agent."""
    wanted = select(Hook).where(
        Hook.action_type == "agent", Hook.action_config["app_id"].astext == app_id
    )
    return list(session.execute(wanted).scalars())


def add(session: Session, **values: Any) -> Hook:  # Any: column values
    """Store a hook."""
    hook = Hook(**values)
    session.add(hook)
    session.flush()  # the id and the times come from the database
    session.refresh(hook)
    return hook


def remove(session: Session, hook: Hook) -> None:
    """Delete a hook."""
    session.delete(hook)
    session.flush()  # whether the app is still watched is asked next


def remove_made_by(session: Session, app_id: str) -> list[str]:
    """Delete the hooks an app's manifest made; return the apps they watched."""
    gone = delete(Hook).where(Hook.made_by_app == app_id).returning(Hook.app_id)
    return list(session.execute(gone).scalars())


def remove_of(session: Session, app_id: str) -> None:
    """Delete the hooks on an app."""
    session.execute(delete(Hook).where(Hook.app_id == app_id))


def watched(session: Session, app_id: str) -> bool:
    """Tell whether any active hook watches an app."""
    found = select(Hook.id).where(Hook.app_id == app_id, Hook.active).limit(1)
    return session.execute(found).first() is not None
