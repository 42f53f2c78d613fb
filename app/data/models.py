"""Which entities each app has."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Integer, String, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class DataContract(Base):
    """The normalised data contract of one app.

    Attributes:
        stamp: new with every install; a process that knows the stamp knows the entities.
        public: actions that need no token, by entity (REST contract part 20, 3.12).
        hooked: whether any hook watches the app, so that writes wake its worker at once.
    """

    __tablename__ = "data_contracts"

    app_id: Mapped[str] = mapped_column(primary_key=True)
    stamp: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    entities: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)  # Any: JSON values
    public: Mapped[dict[str, list[str]]] = mapped_column(JSONB, server_default=text("'{}'"))
    hooked: Mapped[bool] = mapped_column(server_default=text("false"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SQLIdentity(Base):
    """For whom a database connection of app code works right now.

    Only the platform's role can write here; row policies and the audit trigger read it.

    Attributes:
        pid: process id of the connection in Postgres.
        permissions: granted keys, wildcards included.
    """

    __tablename__ = "sql_identities"
    __table_args__ = {"prefixes": ["UNLOGGED"]}

    pid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    app_id: Mapped[str]
    user_id: Mapped[UUID | None]
    delegator_id: Mapped[UUID | None]
    source: Mapped[str | None]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(String))
