"""Integrations: settings, connections of users, bindings to apps, logins under way.

Secrets are not here but in the vault; see ``app.integrations.safe``.

Source: REST contract part 40, sections 5.1, 5.6 and 5.7.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base

APPS_ID = f"{SCHEMA}.apps.id"
USERS_ID = f"{SCHEMA}.users.id"
CONFIGS_ID = f"{SCHEMA}.integration_configs.id"
CONNECTIONS_ID = f"{SCHEMA}.integration_connections.id"


def _integration(*, key: bool = False) -> Mapped[str]:
    return mapped_column(ForeignKey(APPS_ID, ondelete="CASCADE"), primary_key=key)


def _created() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


class IntegrationSettings(Base):
    """The settings of one configuration that are no secrets.

    Attributes:
        config_id: a named configuration, or empty for the default one.
    """

    __tablename__ = "integration_settings"

    integration_id: Mapped[str] = _integration(key=True)
    config_id: Mapped[str] = mapped_column(Text, primary_key=True)
    values: Mapped[dict[str, Any]] = mapped_column(JSONB)  # Any: JSON values


class IntegrationConfig(Base):
    """A named configuration: a further OAuth client of one integration."""

    __tablename__ = "integration_configs"
    __table_args__ = (
        Index(
            "uq_integration_configs_integration_id_label", "integration_id", "label", unique=True
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    integration_id: Mapped[str] = _integration()
    label: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = _created()


class IntegrationConnection(Base):
    """A login of a user at the service behind an integration.

    Attributes:
        kind: ``direct``, or ``delegation``: another user's connection lent to this principal.
        lent_id: the connection a delegation stands for.
        config_id: the configuration it was made with; None: the default one.
        refreshing_until: a process renews the tokens until then at the latest.
    """

    __tablename__ = "integration_connections"
    __table_args__ = (
        CheckConstraint("kind IN ('direct', 'delegation')", name="kind"),
        CheckConstraint("status IN ('active', 'dead')", name="status"),
        CheckConstraint("(kind = 'delegation') = (lent_id IS NOT NULL)", name="lent"),
        Index(
            "uq_integration_connections_label",
            "integration_id",
            "user_id",
            "label",
            unique=True,
            postgresql_where=text("kind = 'direct' AND label IS NOT NULL"),
        ),
        Index(
            "uq_integration_connections_delegation",
            "integration_id",
            "user_id",
            unique=True,
            postgresql_where=text("kind = 'delegation'"),
        ),
        Index(None, "integration_id", "user_id", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    integration_id: Mapped[str] = _integration()
    user_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    label: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text, server_default=text("'direct'"))
    status: Mapped[str] = mapped_column(Text, server_default=text("'active'"))
    last_error: Mapped[str | None] = mapped_column(Text)
    last_error_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    config_id: Mapped[UUID | None] = mapped_column(ForeignKey(CONFIGS_ID), index=True)
    lent_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(CONNECTIONS_ID, ondelete="CASCADE"), index=True
    )
    refreshing_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = _created()


class AppIntegration(Base):
    """A binding: which connection an app uses, for everybody or for one user.

    Attributes:
        user_id: whose binding; empty = app-wide.
        connection_id: None: bound, but each user's own connection counts.
    """

    __tablename__ = "app_integrations"

    app_id: Mapped[str] = mapped_column(ForeignKey(APPS_ID, ondelete="CASCADE"), primary_key=True)
    integration_id: Mapped[str] = _integration(key=True)
    user_id: Mapped[str] = mapped_column(Text, primary_key=True, server_default="")
    connection_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(CONNECTIONS_ID, ondelete="CASCADE"), index=True
    )
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = _created()


class OAuthState(Base):
    """A login under way; used once.

    Attributes:
        state_hash: SHA-256 of the state; the state itself is nowhere.
        nonce: with ``verifier``: the encrypted PKCE verifier.
    """

    __tablename__ = "oauth_states"

    state_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    integration_id: Mapped[str] = _integration()
    user_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"))
    config_id: Mapped[UUID | None] = mapped_column(ForeignKey(CONFIGS_ID, ondelete="CASCADE"))
    callback_url: Mapped[str] = mapped_column(Text)
    nonce: Mapped[bytes] = mapped_column(LargeBinary)
    verifier: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
