"""Values that handlers receive: callers, invocations, secrets, SQL results."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class ReadOnly:
    """A mapping that cannot be changed; its values never appear in its repr."""

    __slots__ = ("_data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = dict(data)

    def __getitem__(self, key: str) -> Any:  # Any: JSON
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __eq__(self, other: object) -> bool:
        return self._data == (other._data if isinstance(other, ReadOnly) else other)

    __hash__ = None  # type: ignore[assignment]  # as a dict

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(sorted(self._data))})"

    def get(self, key: str, default: Any = None) -> Any:  # Any: JSON
        """Return a value, or the default."""
        return self._data.get(key, default)

    def keys(self) -> Any:  # Any: dict_keys has no public name
        """Return the names."""
        return self._data.keys()

    def values(self) -> Any:  # Any: as keys
        """Return the values."""
        return self._data.values()

    def items(self) -> Any:  # Any: as keys
        """Return names and values."""
        return self._data.items()

    def __json__(self) -> dict[str, Any]:
        """Return the JSON form for results."""
        return self._data


class Record(ReadOnly):
    """A JSON object of the host: ``caller["userId"]`` and ``caller.user_id`` are the same.

    Attributes that the host left out are None.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:  # Any: JSON
        if name.startswith("_"):
            raise AttributeError(name)
        head, *rest = name.split("_")
        camel = head + "".join(part.capitalize() for part in rest)
        return self._data.get(name, self._data.get(camel))


class Result:
    """Rows of one SQL statement.

    Attributes:
        columns: names of the columns.
        rows: one list of values a row.
        row_count: rows returned, or affected when none are returned.
    """

    __slots__ = ("columns", "row_count", "rows")

    def __init__(self, answer: dict[str, Any]) -> None:
        self.columns: list[str] = answer.get("columns") or []
        self.rows: list[list[Any]] = answer.get("rows") or []
        self.row_count: int = answer.get("row_count") or 0

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        return [dict(zip(self.columns, row, strict=False)) for row in self.rows]

    def one(self) -> dict[str, Any] | None:
        """Return the first row as a dict, or None."""
        return dict(zip(self.columns, self.rows[0], strict=False)) if self.rows else None

    def scalar(self) -> Any:  # Any: JSON
        """Return the first value of the first row, or None."""
        return self.rows[0][0] if self.rows and self.rows[0] else None

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __json__(self) -> dict[str, Any]:
        """Return the JSON form for results."""
        return {"columns": self.columns, "rows": self.rows, "row_count": self.row_count}
