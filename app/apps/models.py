"""Installed apps and their public shares."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base


class App(Base):
    """An app and its normalised manifest.

    Attributes:
        status: ``installed``, or ``system`` for the built-in row ``core`` nobody sees.
        has_agent: an agent is registered for the app.
        has_frontend: a frontend with an index page is deployed.
        icon: id of the stored icon file.
    """

    __tablename__ = "apps"
    __table_args__ = (CheckConstraint("status IN ('installed', 'system')", name="status"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'installed'"))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSONB)  # Any: JSON values
    has_agent: Mapped[bool] = mapped_column(server_default=text("false"))
    has_frontend: Mapped[bool] = mapped_column(server_default=text("false"))
    icon: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class PublicShare(Base):
    """Leave for whoever has the token to call the scoped public RPCs of an app.

    Attributes:
        context: what the calls' parameters must agree with.
        context_hash: SHA-256 of the context's canonical JSON.
        token_hash: SHA-256 of the token, which is stored nowhere.
        token_prefix: its first 8 characters, to tell shares apart.
    """

    __tablename__ = "public_shares"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    app_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.apps.id", ondelete="CASCADE"))
    created_by: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="CASCADE"), index=True
    )
    context: Mapped[Any] = mapped_column(JSONB)  # Any: a JSON value
    context_hash: Mapped[bytes]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    token_prefix: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_accessed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    access_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (
        Index(
            "uq_public_shares_active",
            "app_id",
            "created_by",
            "context_hash",
            unique=True,
            postgresql_where=revoked_at.is_(None),
        ),
    )
