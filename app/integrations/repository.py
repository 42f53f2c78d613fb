"""Every statement on integrations, their connections and bindings."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.integrations.models import (
    AppIntegration,
    IntegrationConfig,
    IntegrationConnection,
    IntegrationSettings,
    OAuthState,
)

DIRECT = "direct"
DELEGATION = "delegation"
ACTIVE = "active"
DEAD = "dead"

# --- settings and named configurations -------------------------------------------------------


def settings(session: Session, integration_id: str, config_id: str = "") -> dict[str, Any]:
    """Return the plain settings of a configuration."""
    found = session.scalar(
        select(IntegrationSettings.values).where(
            IntegrationSettings.integration_id == integration_id,
            IntegrationSettings.config_id == config_id,
        )
    )
    return dict(found or {})


def put_settings(
    session: Session,
    integration_id: str,
    values: dict[str, Any],  # Any: JSON values
    config_id: str = "",
) -> None:
    """Store the plain settings of a configuration."""
    row = insert(IntegrationSettings).values(
        integration_id=integration_id, config_id=config_id, values=values
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=[IntegrationSettings.integration_id, IntegrationSettings.config_id],
            set_={"values": row.excluded["values"]},
        )
    )


def configs(session: Session, integration_id: str) -> list[IntegrationConfig]:
    """Return the named configurations, oldest first."""
    wanted = select(IntegrationConfig).where(IntegrationConfig.integration_id == integration_id)
    ordered = wanted.order_by(IntegrationConfig.created_at, IntegrationConfig.id)
    return list(session.scalars(ordered))


def config(session: Session, integration_id: str, config_id: UUID) -> IntegrationConfig | None:
    """Return a named configuration."""
    return session.scalar(
        select(IntegrationConfig).where(
            IntegrationConfig.id == config_id, IntegrationConfig.integration_id == integration_id
        )
    )


def add_config(session: Session, integration_id: str, label: str) -> UUID | None:
    """Insert a named configuration; None when the label is taken."""
    row = insert(IntegrationConfig).values(integration_id=integration_id, label=label)
    return session.scalar(row.on_conflict_do_nothing().returning(IntegrationConfig.id))


def remove_config(session: Session, integration_id: str, config_id: UUID) -> None:
    """Delete a named configuration with its settings."""
    session.execute(
        delete(IntegrationSettings).where(
            IntegrationSettings.integration_id == integration_id,
            IntegrationSettings.config_id == str(config_id),
        )
    )
    session.execute(delete(IntegrationConfig).where(IntegrationConfig.id == config_id))


def users_of_config(session: Session, config_id: UUID) -> int:
    """Count the connections made with a named configuration."""
    used = select(func.count()).where(IntegrationConnection.config_id == config_id)
    return session.scalar(used) or 0


# --- connections -----------------------------------------------------------------------------


def connection(
    session: Session, integration_id: str, connection_id: UUID
) -> IntegrationConnection | None:
    """Return a connection of an integration."""
    return session.scalar(
        select(IntegrationConnection).where(
            IntegrationConnection.id == connection_id,
            IntegrationConnection.integration_id == integration_id,
        )
    )


def direct(
    session: Session, integration_id: str, user_id: UUID, *, status: str | None = None
) -> list[IntegrationConnection]:
    """Return a user's own connections, oldest first."""
    wanted = select(IntegrationConnection).where(
        IntegrationConnection.integration_id == integration_id,
        IntegrationConnection.user_id == user_id,
        IntegrationConnection.kind == DIRECT,
    )
    if status is not None:
        wanted = wanted.where(IntegrationConnection.status == status)
    ordered = wanted.order_by(IntegrationConnection.created_at, IntegrationConnection.id)
    return list(session.scalars(ordered))


def active_direct(session: Session, integration_id: str) -> list[IntegrationConnection]:
    """Return everybody's active own connections, oldest first."""
    wanted = select(IntegrationConnection).where(
        IntegrationConnection.integration_id == integration_id,
        IntegrationConnection.kind == DIRECT,
        IntegrationConnection.status == ACTIVE,
    )
    return list(session.scalars(wanted.order_by(IntegrationConnection.created_at)))


def delegation(
    session: Session, integration_id: str, user_id: UUID
) -> IntegrationConnection | None:
    """Return the connection that was lent to a principal."""
    lent = select(IntegrationConnection.lent_id).where(
        IntegrationConnection.integration_id == integration_id,
        IntegrationConnection.user_id == user_id,
        IntegrationConnection.kind == DELEGATION,
    )
    return session.scalar(
        select(IntegrationConnection).where(IntegrationConnection.id.in_(lent.scalar_subquery()))
    )


def of_user(session: Session, user_id: UUID) -> list[IntegrationConnection]:
    """Return every connection of a user, of all integrations."""
    wanted = select(IntegrationConnection).where(IntegrationConnection.user_id == user_id)
    return list(session.scalars(wanted))


def connected_users(session: Session, integration_id: str) -> list[UUID]:
    """Return who has own connections."""
    found = (
        select(IntegrationConnection.user_id)
        .where(
            IntegrationConnection.integration_id == integration_id,
            IntegrationConnection.kind == DIRECT,
        )
        .distinct()
        .order_by(IntegrationConnection.user_id)
    )
    return list(session.scalars(found))


def put_connection(
    session: Session,
    integration_id: str,
    user_id: UUID,
    *,
    label: str | None,
    config_id: UUID | None = None,
) -> UUID:
    """Insert an own connection, or revive the one with the same label."""
    row = insert(IntegrationConnection).values(
        integration_id=integration_id, user_id=user_id, label=label, config_id=config_id
    )
    if label is not None:
        row = row.on_conflict_do_update(
            index_elements=["integration_id", "user_id", "label"],
            index_where=(IntegrationConnection.kind == DIRECT)
            & IntegrationConnection.label.is_not(None),
            set_={
                "status": ACTIVE,
                "last_error": None,
                "last_error_at": None,
                "config_id": row.excluded.config_id,
                "refreshing_until": None,
            },
        )
    return session.execute(row.returning(IntegrationConnection.id)).scalar_one()


def put_delegation(session: Session, integration_id: str, user_id: UUID, lent_id: UUID) -> None:
    """Lend a connection to a principal, replacing what was lent before."""
    row = insert(IntegrationConnection).values(
        integration_id=integration_id, user_id=user_id, kind=DELEGATION, lent_id=lent_id
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["integration_id", "user_id"],
            index_where=IntegrationConnection.kind == DELEGATION,
            set_={"lent_id": row.excluded.lent_id},
        )
    )


def change_connection(
    session: Session,
    connection_id: UUID,
    values: dict[str, Any],  # Any: column values
) -> None:
    """Set columns of a connection."""
    session.execute(
        update(IntegrationConnection)
        .where(IntegrationConnection.id == connection_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def claim_refresh(session: Session, connection_id: UUID, *, now: datetime, until: datetime) -> bool:
    """Take the right to renew a connection's tokens; of several callers one gets it."""
    claimed = (
        update(IntegrationConnection)
        .where(
            IntegrationConnection.id == connection_id,
            or_(
                IntegrationConnection.refreshing_until.is_(None),
                IntegrationConnection.refreshing_until < now,
            ),
        )
        .values(refreshing_until=until)
        .returning(IntegrationConnection.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(claimed) is not None


def remove_connection(session: Session, connection_id: UUID) -> None:
    """Delete a connection with its bindings and what was lent of it."""
    session.execute(delete(IntegrationConnection).where(IntegrationConnection.id == connection_id))


# --- bindings --------------------------------------------------------------------------------


def binding(
    session: Session, app_id: str, integration_id: str, user_id: UUID | None
) -> AppIntegration | None:
    """Return the enabled binding of a user, or else the app-wide one."""
    scopes = ["" if user_id is None else str(user_id), ""]
    found = (
        select(AppIntegration)
        .where(
            AppIntegration.app_id == app_id,
            AppIntegration.integration_id == integration_id,
            AppIntegration.user_id.in_(scopes),
            AppIntegration.enabled,
        )
        .order_by(AppIntegration.user_id.desc())
        .limit(1)
    )
    return session.scalar(found)


def bindings(session: Session, app_id: str, *, user_id: UUID | None) -> list[AppIntegration]:
    """Return an app's bindings: all, or the app-wide ones and those of one user."""
    wanted = select(AppIntegration).where(AppIntegration.app_id == app_id)
    if user_id is not None:
        wanted = wanted.where(AppIntegration.user_id.in_(["", str(user_id)]))
    ordered = wanted.order_by(AppIntegration.integration_id, AppIntegration.user_id)
    return list(session.scalars(ordered))


def put_binding(
    session: Session, app_id: str, integration_id: str, user_id: str, connection_id: UUID | None
) -> None:
    """Insert or change a binding."""
    row = insert(AppIntegration).values(
        app_id=app_id, integration_id=integration_id, user_id=user_id, connection_id=connection_id
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["app_id", "integration_id", "user_id"],
            set_={"connection_id": row.excluded.connection_id, "enabled": True},
        )
    )


def remove_binding(session: Session, app_id: str, integration_id: str, user_id: str) -> None:
    """Delete a binding."""
    session.execute(
        delete(AppIntegration).where(
            AppIntegration.app_id == app_id,
            AppIntegration.integration_id == integration_id,
            AppIntegration.user_id == user_id,
        )
    )


def forget_user(session: Session, user_id: UUID) -> None:
    """Delete the bindings of a user; connections go with the user's row."""
    session.execute(delete(AppIntegration).where(AppIntegration.user_id == str(user_id)))


# --- logins under way ------------------------------------------------------------------------


def add_state(session: Session, **values: Any) -> None:  # Any: column values
    """Insert a login under way and drop those that were never finished."""
    session.execute(delete(OAuthState).where(OAuthState.expires_at < func.now()))
    session.execute(insert(OAuthState).values(**values))


def take_state(session: Session, state_hash: bytes) -> OAuthState | None:
    """Delete a login under way and return it; of several callers one gets it."""
    return session.scalar(
        delete(OAuthState).where(OAuthState.state_hash == state_hash).returning(OAuthState)
    )


def forget(session: Session, app_id: str) -> None:
    """Delete what an app has here, as an integration and as a user of integrations."""
    for model in (AppIntegration, IntegrationConnection, OAuthState):
        session.execute(delete(model).where(model.integration_id == app_id))
    session.execute(delete(AppIntegration).where(AppIntegration.app_id == app_id))
    for owned in (IntegrationSettings, IntegrationConfig):
        session.execute(delete(owned).where(owned.integration_id == app_id))
