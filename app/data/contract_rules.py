"""From the manifest's ``dataContract`` to its normalised form; the first broken rule is raised.

Source: REST contract part 20, sections 3.2, 3.3 and 3.9 (R1, R3, R5, R7 to R13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.errors import Invalid
from app.data import names
from app.data.contract import CORE_USERS, STAMPS, JSONObject
from app.data.index_rules import SYSTEM_COLUMNS, normalise_checks, normalise_indexes
from app.data.shape import Node, distinct, identifier
from app.data.values import Kind, WrongValue, convert, kind_of

RESERVED_ENTITIES = {"schema_migrations"}
POSTGRES_COLUMNS = {"tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"}
DELETE_RULES = ("cascade", "restrict", "set_null")
ALIASES = {
    "enumValues": "enum_values",
    "defaultValue": "default_value",
    "isPrimaryKey": "is_primary_key",
    "onDelete": "on_delete",
}
MAX_FIELDS = 1000


def normalise(manifest: Node) -> list[JSONObject]:
    """Return the normalised entities of a manifest, in its order.

    Raises:
        Invalid: a rule is broken; the text names it.
    """
    nodes = manifest.objects("dataContract")
    entities = [_entity(node) for node in nodes]
    distinct([entity["entityName"] for entity in entities], "entity")
    _check_links(entities)
    for entity in entities:
        _check_values(entity, entities)
    _unique_index_names(entities)
    return entities


def _entity(node: Node) -> JSONObject:
    name = node.identifier("entityName", "entityName")
    if name in RESERVED_ENTITIES:
        raise Invalid(f"entityName '{name}' is reserved")
    node.required("fields", list)
    fields = [_field(field) for field in node.objects("fields")]
    distinct([field["name"] for field in fields], "field")
    fields = [field for field in fields if field["name"] not in STAMPS]
    if len(fields) > MAX_FIELDS:
        raise Invalid(f"entity '{name}': at most {MAX_FIELDS} fields")
    entity: JSONObject = {"entityName": name, "fields": fields}
    entity.update(_identity(node, name, fields))
    columns = {field["name"] for field in fields} | SYSTEM_COLUMNS
    entity.update(normalise_indexes(node, name, columns))
    entity.update(normalise_checks(node, name, fields))
    return entity


def _identity(node: Node, entity: str, fields: Sequence[JSONObject]) -> JSONObject:
    kind, key = node.maybe("identityKind", str), node.maybe("identityKey", str)
    if kind is not None:
        identifier(kind, "identityKind")
    if (kind is None) != (key is None):
        raise Invalid(f"entity '{entity}': identityKind and identityKey go together")
    if kind is None:
        return {}
    if key not in {field["name"] for field in fields}:
        raise Invalid(f"entity '{entity}': identityKey '{key}' is not one of its fields")
    return {"identityKind": kind, "identityKey": key}


def _field(raw: Node) -> JSONObject:
    name = raw.identifier("name", "field name")
    node = Node(_without_aliases(raw.body, name), raw.path)
    if name in POSTGRES_COLUMNS:
        raise Invalid(f"field '{name}': the name is reserved by Postgres")
    field: JSONObject = {
        "name": name,
        "type": node.text("type"),
        "required": node.optional("required", bool, default=False),
    }
    _primary_key(node, field)
    if node.body.get("default_value") is not None:
        field["default_value"] = node.body["default_value"]
    field.update(_enum(node, name))
    if field["type"] == "entity_link":
        field.update(_reference(node, field))
    if name == "id":
        return {key: field[key] for key in ("name", "type", "required", "is_primary_key")}
    return field


def _without_aliases(body: Mapping[str, Any], name: str) -> JSONObject:  # Any: JSON values
    resolved = {key: value for key, value in body.items() if key not in ALIASES}
    for alias, key in ALIASES.items():
        if alias not in body:
            continue
        if key in body and body[key] != body[alias]:
            raise Invalid(f"field '{name}': {alias} and {key} differ")
        resolved[key] = body[alias]
    return resolved


def _primary_key(node: Node, field: JSONObject) -> None:
    name = field["name"]
    if name == "id":
        if field["type"] not in {"uuid", "text"}:
            raise Invalid("field 'id': the type must be uuid or text")
        node.optional("is_primary_key", bool, default=True)
        field.update(required=True, is_primary_key=True)
    elif node.optional("is_primary_key", bool, default=False):
        raise Invalid(f"field '{name}': only 'id' can be the primary key")


def _enum(node: Node, name: str) -> JSONObject:
    values = node.body.get("enum_values")
    if values is None or values == []:
        return {}
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Invalid(f"field '{name}': enum_values must be an array of strings")
    return {"enum_values": values}


def _reference(node: Node, field: JSONObject) -> JSONObject:
    name = field["name"]
    derived = "restrict" if field["required"] else "set_null"
    rule = node.body.get("on_delete") or derived
    if rule not in DELETE_RULES:
        raise Invalid(f"field '{name}': on_delete must be cascade, restrict or set_null")
    reference = node.maybe("references", dict)
    if reference is None:
        return {}
    target = Node(reference, node.where("references"))
    if target.optional("field", str, "id") != "id":
        raise Invalid(f"field '{name}': references.field must be 'id'")
    return {
        "references": {"entity": target.text("entity"), "field": "id"},
        "on_delete": rule,
    }


def _check_links(entities: Sequence[JSONObject]) -> None:
    local = {entity["entityName"] for entity in entities}
    for entity in entities:
        for field in entity["fields"]:
            if "references" in field:
                _check_link(field["name"], field["references"]["entity"], local)


def _check_link(field: str, target: str, local: set[str]) -> None:
    app, colon, entity = target.partition(":")
    if not colon and target not in local:
        raise Invalid(f"field '{field}' links to '{target}', which this manifest does not define")
    if colon and app == "core" and target != CORE_USERS:
        raise Invalid(f"field '{field}' links to 'core:{entity}', which does not exist")
    if colon and app != "core":
        raise Invalid(
            f"field '{field}' links to '{target}': links into other apps are not supported"
        )


def _check_values(entity: JSONObject, entities: Sequence[JSONObject]) -> None:
    text_keyed = {
        e["entityName"]
        for e in entities
        if any(f["name"] == "id" and f["type"] == "text" for f in e["fields"])
    }
    for field in entity["fields"]:
        target = field.get("references", {}).get("entity")
        kind = Kind.TEXT if target in text_keyed else kind_of(field["type"])
        _check_default(field, kind)
        _check_enum(field, kind)


def _check_default(field: JSONObject, kind: Kind) -> None:
    if "default_value" not in field:
        return
    value = field["default_value"]
    nested = isinstance(value, dict) or (isinstance(value, list) and not kind.is_array)
    type_name = "text" if field["type"] == "file" else field["type"]
    wrong = Invalid(f"field '{field['name']}': default_value is not a valid {field['type']}")
    if nested and kind is not Kind.JSON:
        raise wrong
    try:
        convert(type_name, kind, value)
    except WrongValue as exc:
        raise wrong from exc


def _check_enum(field: JSONObject, kind: Kind) -> None:
    element = {Kind.TEXTS: Kind.TEXT, Kind.NUMBERS: Kind.NUMBER, Kind.JSON: Kind.TEXT}.get(
        kind, kind
    )
    for value in field.get("enum_values", ()):
        try:
            convert("", element, value)
        except WrongValue as exc:
            raise Invalid(
                f"field '{field['name']}': enum value '{value}' is not a valid {field['type']}"
            ) from exc


def _unique_index_names(entities: Sequence[JSONObject]) -> None:
    """Refuse names that meet in the one name space that relations of a schema share."""
    taken = {entity["entityName"] for entity in entities}
    for entity in entities:
        name = entity["entityName"]
        taken.update({names.order_index(name), f"{name}_pkey"})
    for entity in entities:
        for index in entity.get("indexes", ()):
            if index["name"] in taken:
                raise Invalid(f"entity '{entity['entityName']}': duplicate index '{index['name']}'")
            taken.add(index["name"])
