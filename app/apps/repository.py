"""Rows of installed apps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.apps.models import App

INSTALLED = "installed"
ALL_INSTALLED = """
NOT EXISTS (
    SELECT FROM unnest(CAST(:apps AS text[])) AS wanted (id)
    WHERE NOT EXISTS (
        SELECT FROM trellis.apps a WHERE a.id = wanted.id AND a.status = 'installed'
    )
)
"""


def find(session: Session, app_id: str) -> App | None:
    """Return an installed app."""
    return session.execute(
        select(App).where(App.id == app_id, App.status == INSTALLED)
    ).scalar_one_or_none()


def exists(session: Session, app_id: str) -> bool:
    """Tell whether an app is installed."""
    found = select(App.id).where(App.id == app_id, App.status == INSTALLED)
    return session.execute(found).first() is not None


def has_agent(session: Session, app_id: str) -> bool:
    """Tell whether an agent is registered for the app."""
    return bool(session.scalar(select(App.has_agent).where(App.id == app_id)))


def manifest(session: Session, app_id: str) -> dict[str, Any] | None:  # Any: JSON values
    """Return an installed app's manifest."""
    return session.execute(
        select(App.manifest).where(App.id == app_id, App.status == INSTALLED)
    ).scalar_one_or_none()


def manifests(session: Session, app_type: str) -> list[dict[str, Any]]:  # Any: JSON values
    """Return the manifests of the installed apps of one declared type, by name, then id."""
    of_type = select(App.manifest).where(
        App.status == INSTALLED, App.manifest["type"].astext == app_type
    )
    return list(session.execute(of_type.order_by(App.name, App.id)).scalars())


def all_installed(session: Session) -> list[App]:
    """Return the installed apps by name, then id."""
    by_name = select(App).where(App.status == INSTALLED).order_by(App.name, App.id)
    return list(session.execute(by_name).scalars())


def put(session: Session, app_id: str, manifest: dict[str, Any]) -> None:  # Any: JSON values
    """Insert or update an app from its normalised manifest."""
    values = {
        "name": manifest["name"],
        "version": manifest["version"],
        "manifest": manifest,
        "status": INSTALLED,
        "updated_at": func.now(),
    }
    session.execute(
        insert(App)
        .values(id=app_id, **values)
        .on_conflict_do_update(index_elements=[App.id], set_=values)
    )


def change(session: Session, app_id: str, values: dict[str, Any]) -> None:  # Any: column values
    """Set columns of an app."""
    session.execute(update(App).where(App.id == app_id).values(**values))


def remove(session: Session, app_id: str) -> None:
    """Delete an app's row."""
    session.execute(delete(App).where(App.id == app_id))
