"""The data contract of an app: its entities, as declared and as stored.

Source: REST contract part 20, sections 3.2, 3.3, 4.3, 4.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.data import names
from app.data.values import Kind, kind_of

JSONObject = dict[str, Any]  # Any: JSON values

CREATED = "created_at"
UPDATED = "updated_at"
STAMPS = (CREATED, UPDATED)
CORE_USERS = "core:users"


@dataclass(frozen=True, slots=True)
class Field:
    """A field an app declared.

    Attributes:
        kind: its column kind; a link has that of the target's id.
        target: entity of the same app, ``core:users``, or None.
        default: JSON value, None = no default.
        on_delete: ``cascade``, ``restrict`` or ``set_null``; only meaningful with a target.
        absent: another app's entity has it and this one does not; every row holds NULL.
    """

    name: str
    type: str
    kind: Kind
    required: bool = False
    default: Any = None  # Any: a JSON value
    enum: tuple[str, ...] = ()
    target: str | None = None
    on_delete: str = "set_null"
    absent: bool = False

    def to_json(self) -> JSONObject:
        """Return the normalised declaration."""
        body: JSONObject = {"name": self.name, "type": self.type, "required": self.required}
        if self.default is not None:
            body["default_value"] = self.default
        if self.enum:
            body["enum_values"] = list(self.enum)
        if self.target:
            body["references"] = {"entity": self.target, "field": "id"}
            body["on_delete"] = self.on_delete
        if self.name == "id":
            body["is_primary_key"] = True
        return body


@dataclass(frozen=True, slots=True)
class Index:
    """An index an app declared.

    Attributes:
        columns: normalised column elements.
        parameters: storage parameters as texts.
    """

    name: str
    columns: tuple[Mapping[str, str], ...]
    unique: bool = False
    using: str = "btree"
    where: str | None = None
    parameters: Mapping[str, str] | None = None

    @property
    def mark(self) -> str:
        """The comment of the index in the database."""
        columns = [sorted(column.items()) for column in self.columns]
        parameters = sorted((self.parameters or {}).items())
        return names.mark(columns, self.unique, self.using, self.where, parameters)

    @property
    def plain_columns(self) -> tuple[str, ...]:
        """The column names, or nothing if an element is an expression."""
        found = tuple(column.get("column", "") for column in self.columns)
        return found if all(found) else ()

    def to_json(self) -> JSONObject:
        """Return the normalised declaration."""
        body: JSONObject = {
            "name": self.name,
            "columns": [dict(column) for column in self.columns],
            "unique": self.unique,
            "using": self.using,
        }
        if self.where is not None:
            body["where"] = self.where
        if self.parameters:
            body["with"] = dict(self.parameters)
        return body


@dataclass(frozen=True, slots=True)
class Check:
    """A boolean condition on rows that an app declared."""

    name: str
    expr: str

    @property
    def mark(self) -> str:
        """The comment of the constraint in the database."""
        return names.mark(" ".join(self.expr.split()))

    def to_json(self) -> JSONObject:
        """Return the normalised declaration."""
        return {"name": self.name, "expr": self.expr}


@dataclass(frozen=True)
class Entity:
    """A table of an app.

    Attributes:
        fields: declared fields without system columns.
        text_key: the primary key is text that clients choose, not a generated UUID.
        declares_id: the manifest lists ``id`` among the fields.
    """

    name: str
    fields: tuple[Field, ...]
    text_key: bool = False
    declares_id: bool = False
    identity_kind: str | None = None
    identity_key: str | None = None
    indexes: tuple[Index, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def id_kind(self) -> Kind:
        """Column kind of ``id``."""
        return Kind.TEXT if self.text_key else Kind.UUID

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        """Every readable column: id, the fields, the two times."""
        system = [Field("id", "text" if self.text_key else "uuid", self.id_kind, required=True)]
        stamps = [Field(name, "timestamp", Kind.TIMESTAMP, required=True) for name in STAMPS]
        return {field.name: field for field in (*system, *self.fields, *stamps)}

    @cached_property
    def writable(self) -> Mapping[str, Field]:
        """The columns a client may send; ``id`` is one of them only when it is text."""
        own = {field.name: field for field in self.fields}
        return {"id": self.by_name["id"], **own} if self.text_key else own

    @cached_property
    def links(self) -> Mapping[str, Field]:
        """Constraint names of the links and their fields."""
        return {names.foreign_key(self.name, f.name): f for f in self.fields if f.target}

    @cached_property
    def enums(self) -> Mapping[str, Field]:
        """Constraint names of the fields with allowed values."""
        return {names.enum_check(self.name, f.name): f for f in self.fields if f.enum}

    def to_json(self) -> JSONObject:
        """Return the normalised declaration."""
        fields = [field.to_json() for field in self.fields]
        if self.declares_id:
            fields.insert(0, self.by_name["id"].to_json())
        body: JSONObject = {"entityName": self.name, "fields": fields}
        if self.identity_kind and self.identity_key:
            body["identityKind"] = self.identity_kind
            body["identityKey"] = self.identity_key
        if self.indexes:
            body["indexes"] = [index.to_json() for index in self.indexes]
        if self.checks:
            body["checks"] = [check.to_json() for check in self.checks]
        return body


def load(stored: Iterable[Mapping[str, Any]]) -> dict[str, Entity]:  # Any: JSON values
    """Return the entities of a stored, hence valid, data contract in manifest order."""
    stored = list(stored)
    text_keyed = {body["entityName"] for body in stored if _text_key(body)}
    return {body["entityName"]: _entity(body, text_keyed) for body in stored}


def _text_key(body: Mapping[str, Any]) -> bool:
    return any(f["name"] == "id" and f["type"] == "text" for f in body["fields"])


def _entity(body: Mapping[str, Any], text_keyed: set[str]) -> Entity:
    return Entity(
        name=body["entityName"],
        fields=tuple(_field(f, text_keyed) for f in body["fields"] if f["name"] != "id"),
        text_key=_text_key(body),
        declares_id=any(f["name"] == "id" for f in body["fields"]),
        identity_kind=body.get("identityKind"),
        identity_key=body.get("identityKey"),
        indexes=tuple(_index(index) for index in body.get("indexes", ())),
        checks=tuple(Check(check["name"], check["expr"]) for check in body.get("checks", ())),
    )


def _field(body: Mapping[str, Any], text_keyed: set[str]) -> Field:
    target = body["references"]["entity"] if "references" in body else None
    kind = Kind.TEXT if target in text_keyed else kind_of(body["type"])
    return Field(
        name=body["name"],
        type=body["type"],
        kind=kind,
        required=body["required"],
        default=body.get("default_value"),
        enum=tuple(body.get("enum_values", ())),
        target=target,
        on_delete=body.get("on_delete", "set_null"),
    )


def _index(body: Mapping[str, Any]) -> Index:
    return Index(
        name=body["name"],
        columns=tuple(body["columns"]),
        unique=body["unique"],
        using=body["using"],
        where=body.get("where"),
        parameters=body.get("with"),
    )
