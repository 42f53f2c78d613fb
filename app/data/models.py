"""Which entities each app has."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class DataContract(Base):
    """The normalised data contract of one app.

    Attributes:
        stamp: new with every install; a process that knows the stamp knows the entities.
    """

    __tablename__ = "data_contracts"

    app_id: Mapped[str] = mapped_column(primary_key=True)
    stamp: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    entities: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)  # Any: JSON values
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
