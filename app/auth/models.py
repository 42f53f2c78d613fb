"""Principals, their sessions and credentials, who may act for whom, identity providers.

Source: REST contract part 10, section 3.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base

USERS_ID = f"{SCHEMA}.users.id"


def _created() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


class User(Base):
    """A principal: human, agent or service."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(Text, unique=True)
    display_name: Mapped[str | None] = mapped_column(Text)
    password_hash: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text, server_default="human")
    is_system: Mapped[bool] = mapped_column(server_default=text("false"))
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    owner_of_record: Mapped[UUID | None] = mapped_column(
        ForeignKey(USERS_ID, ondelete="SET NULL"), index=True
    )
    oidc_provider: Mapped[str | None] = mapped_column(Text)
    oidc_sub: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )

    __table_args__ = (
        CheckConstraint("kind IN ('human', 'agent', 'service')", name="kind"),
        CheckConstraint("(oidc_provider IS NULL) = (oidc_sub IS NULL)", name="oidc_link"),
        Index(
            "uq_users_oidc_provider_oidc_sub",
            "oidc_provider",
            "oidc_sub",
            unique=True,
            postgresql_where=text("oidc_provider IS NOT NULL"),
        ),
    )


class UserSession(Base):
    """One interactive sign-in."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    created_at: Mapped[datetime] = _created()


class OIDCProvider(Base):
    """An identity provider; its client secret is in the vault."""

    __tablename__ = "oidc_providers"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    display_name: Mapped[str] = mapped_column(Text)
    issuer_url: Mapped[str] = mapped_column(Text)
    client_id: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(
        ARRAY(Text), server_default=text("'{openid,email,profile}'")
    )
    auto_register: Mapped[bool] = mapped_column(server_default=text("true"))
    default_role: Mapped[str] = mapped_column(Text, server_default="base")
    role_claim: Mapped[str | None] = mapped_column(Text)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = _created()


class OIDCState(Base):
    """A browser sign-in under way; used once."""

    __tablename__ = "oidc_state"

    state: Mapped[str] = mapped_column(Text, primary_key=True)
    provider_id: Mapped[str] = mapped_column(Text, index=True)
    nonce: Mapped[str] = mapped_column(Text)
    pkce_verifier: Mapped[str] = mapped_column(Text)
    redirect_uri: Mapped[str] = mapped_column(Text, server_default="")
    token_delivery: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = _created()


class AuthNonce(Base):
    """A one-time code a browser swaps for its tokens."""

    __tablename__ = "auth_nonces"

    nonce_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    session_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.sessions.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime] = _created()


class ServiceCredential(Base):
    """A key of a service account; only its digest is kept."""

    __tablename__ = "service_credentials"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    prefix: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class MagicLinkToken(Base):
    """A one-time link that signs a person in and may confer roles."""

    __tablename__ = "magic_link_tokens"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    email: Mapped[str] = mapped_column(Text, index=True)
    roles: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    redirect_uri: Mapped[str | None] = mapped_column(Text)
    token_delivery: Mapped[str] = mapped_column(Text, server_default="")
    created_by: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = _created()
    consumed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class Delegation(Base):
    """A principal's standing permission for another one, never a human, to act for it.

    The table is named after its first use. Most rows belong to a trigger that runs an agent; rows
    of the kind ``act_as`` let their delegator order work in the delegatee's name, and
    ``trigger_id`` repeats the delegator.
    """

    __tablename__ = "agent_delegations"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    delegator_id: Mapped[UUID] = mapped_column(ForeignKey(USERS_ID, ondelete="CASCADE"), index=True)
    delegatee_id: Mapped[UUID] = mapped_column("agent_user_id")
    trigger_type: Mapped[str] = mapped_column(Text)
    trigger_id: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint(
            "trigger_type IN ('cron', 'hook', 'webhook', 'manual', 'channel', 'act_as')",
            name="trigger_type",
        ),
        Index(
            "ix_agent_delegations_trigger",
            "agent_user_id",
            "trigger_type",
            "trigger_id",
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )
