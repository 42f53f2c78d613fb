"""Registered keys, roles and who holds them.

Source: REST contract part 10, section 3.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, DateTime, ForeignKey, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import SCHEMA, Base


class RegisteredKey(Base):
    """A permission key the platform, an app or an integration made known."""

    __tablename__ = "rbac_permissions"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    description: Mapped[str] = mapped_column(Text, server_default="")
    source_app: Mapped[str | None] = mapped_column(Text, index=True)


class Role(Base):
    """A named set of keys and the roles it inherits from (which need not exist)."""

    __tablename__ = "rbac_roles"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    description: Mapped[str | None] = mapped_column(Text)
    inherits: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))


class Assignment(Base):
    """A principal holds a role."""

    __tablename__ = "rbac_assignments"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.users.id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.rbac_roles.name", ondelete="CASCADE"), primary_key=True, index=True
    )
    assigned_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )


class Stamp(Base):
    """The one row whose value changes with every change of roles or assignments.

    Written by triggers only, with a value that is never used again, so that what a process has
    cached under a value cannot be confused with a later state, not even after a rollback.
    """

    __tablename__ = "rbac_version"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    version: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))

    __table_args__ = (CheckConstraint("singleton", name="one_row"),)
