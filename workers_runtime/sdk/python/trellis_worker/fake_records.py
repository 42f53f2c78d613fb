"""Records in memory for ``testing``: the operations of ``ctx.collection`` without a database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Any

from trellis_worker.errors import HostError

STAMPS = ("created_at", "updated_at")
LIMIT = 10_000

Record = dict[str, Any]


class FakeRecords:
    """The data of one app.

    Attributes:
        entities: entity -> its records, free for tests to fill and read.
    """

    def __init__(self, app_id: str, manifest: dict[str, Any] | None) -> None:
        """Know the entities of the manifest's data contract; without one any entity exists."""
        self._app_id = app_id
        self.entities: dict[str, list[Record]] = {}
        self._fields: dict[str, set[str]] | None = None
        contract = (manifest or {}).get("dataContract")
        if contract is not None:
            self._fields = {
                entity["entityName"]: {field["name"] for field in entity.get("fields", [])}
                for entity in contract
            }
            self.entities.update({name: [] for name in self._fields})

    def run(self, op: str, entity: str, data: Record, options: Record) -> Any:  # Any: JSON
        """Perform one ``collection_op``.

        Raises:
            HostError: with the platform's text.
        """
        self._check(entity, data)
        rows = self.entities.setdefault(entity, [])
        if op == "insert":
            return self._insert(rows, data)
        if op == "update":
            return self._update(rows, data)
        if op == "delete":
            kept = [row for row in rows if row.get("id") != data.get("id")]
            found, rows[:] = len(kept) < len(rows), kept
            return found
        matching = [row for row in rows if all(row.get(k) == v for k, v in data.items())]
        if op == "findOne":
            return matching[0] if matching else None
        if op in {"find", "list"}:
            return self._page(matching, options)
        raise HostError(f"unsupported op: {op}")

    def _check(self, entity: str, data: Record) -> None:
        if self._fields is None:
            return
        if entity not in self._fields:
            raise HostError(f"entity '{entity}' not found in app '{self._app_id}'")
        unknown = set(data) - self._fields[entity] - {"id", *STAMPS}
        if unknown:
            raise HostError(f"unknown field '{min(unknown)}'")

    @staticmethod
    def _insert(rows: list[Record], data: Record) -> Record:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        row = {"id": str(uuid.uuid4()), **dict.fromkeys(STAMPS, now), **data}
        rows.append(row)
        return row

    @staticmethod
    def _update(rows: list[Record], data: Record) -> Record:
        if "id" not in data:
            raise HostError("id required for update")
        if len(data) < 2:
            raise HostError("no fields to update")
        row = next((row for row in rows if row.get("id") == data["id"]), None)
        if row is None:
            raise HostError("record not found")
        row.update(data)
        return row

    @staticmethod
    def _page(rows: list[Record], options: Record) -> list[Record]:
        for field, direction in reversed(options.get("order_by") or []):
            rows = sorted(rows, key=partial(_rank, field), reverse=direction == "desc")
        offset = options.get("offset", 0)
        return rows[offset : offset + options.get("limit", LIMIT)]


def _rank(field: str, row: Record) -> tuple[bool, Any]:  # Any: a JSON value
    """Order as Postgres does: records without a value last, or first when descending."""
    value = row.get(field)
    return value is None, 0 if value is None else value
