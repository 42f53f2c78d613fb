"""Schema sync ends in the same tables whatever was there before."""

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from psycopg2 import sql
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from app.core.errors import Conflict
from app.data import contract, ddl, live, sync
from app.data.contract_rules import normalise
from app.data.execution import run
from app.data.shape import Node
from app.data.values import CONVERTERS, Kind, input_text

TYPES = [
    "text",
    "number",
    "boolean",
    "date",
    "timestamp",
    "json",
    "uuid",
    "[text]",
    "[number]",
    "odd",
]
DEFAULTS = {
    "text": ["it's", "\\x", ""],
    "number": [0, -2.5, 1e300],
    "boolean": [True, False],
    "date": ["2026-02-03"],
    "timestamp": ["2026-02-03T08:15:00Z"],
    "json": [{"a": [1]}, "x"],
    "uuid": ["5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11"],
    "[text]": [[], ['a"b', "{,}"]],
    "[number]": [[1, 2.5]],
    "odd": ["x"],
}
NAMES = st.sampled_from(["alpha", "beta", "gamma", "delta", "select", "x" * 63])


@st.composite
def field(draw, name, entities):
    kind = draw(st.sampled_from([*TYPES, "entity_link"]))
    body = {"name": name, "type": kind, "required": draw(st.booleans())}
    if kind == "entity_link":
        if draw(st.booleans()):
            target = draw(st.sampled_from([*entities, "core:users"]))
            body["references"] = {"entity": target}
            body["on_delete"] = draw(st.sampled_from(["cascade", "restrict", "set_null"]))
    elif draw(st.booleans()):
        body["default_value"] = draw(st.sampled_from(DEFAULTS[kind]))
    if kind in {"text", "[text]", "odd"} and draw(st.booleans()):
        body["enum_values"] = draw(
            st.lists(st.sampled_from(["a", "it's"]), min_size=1, unique=True)
        )
    return body


@st.composite
def entity(draw, name, entities):
    fields = [draw(field(n, entities)) for n in draw(st.lists(NAMES, unique=True, max_size=5))]
    body = {"entityName": name, "fields": fields}
    plain = [f["name"] for f in fields if f["type"] != "json"]
    if plain and draw(st.booleans()):
        columns = draw(st.lists(st.sampled_from(plain), min_size=1, max_size=2, unique=True))
        body["indexes"] = [
            {"name": f"ix_of_{name}", "columns": columns, "unique": draw(st.booleans())}
        ]
    if plain and draw(st.booleans()):
        body["checks"] = [
            {"name": "some", "expr": f'"{draw(st.sampled_from(plain))}" IS NOT NULL OR true'}
        ]
    if fields and draw(st.booleans()):
        body |= {"identityKind": "thing", "identityKey": draw(st.sampled_from(fields))["name"]}
    return body


@st.composite
def contracts(draw):
    names = draw(st.lists(st.sampled_from(["one", "two", "three"]), unique=True, min_size=1))
    return [draw(entity(name, names)) for name in names]


def picture(session, entities):
    """Return everything sync is responsible for, by table."""
    shown = {}
    for name, table in live.read(session, "probe").tables.items():
        if name not in entities:
            continue
        shown[name] = (
            {n: (c.type, c.not_null, c.default) for n, c in table.columns.items()},
            dict(table.foreign_keys),
            dict(table.checks),
            # The index of a link outlives the link (contract 4.3).
            {n: i for n, i in table.indexes.items() if not n.startswith("idx_probe_")},
            set(table.triggers),
            set(table.policies),
        )
    return shown


@given(before=contracts(), after=contracts())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_then_b_is_the_same_as_a_fresh_b(database_url, before, after):
    engine = create_engine(database_url)
    first, second = (
        contract.load(normalise(Node({"dataContract": body}))) for body in (before, after)
    )
    with Session(engine) as session:
        sync.apply(session, "probe", second)
        fresh = picture(session, second)
        session.rollback()
        sync.apply(session, "probe", first)
        assert _drift(session, first) == []
        try:
            sync.apply(session, "probe", second)
        except Conflict as exc:
            # Postgres has no cast between some pairs of types (contract 4.2).
            session.rollback()
            if "cannot convert" not in exc.message:
                raise
            reject()
        assert picture(session, second) == fresh
        assert _drift(session, second) == []
        session.rollback()
        assert session.scalar(text("SELECT to_regnamespace('probe')")) is None
    engine.dispose()


SAMPLES = {
    Kind.TEXT: "a",
    Kind.NUMBER: 1.5,
    Kind.BOOLEAN: True,
    Kind.DATE: "2026-02-03",
    Kind.TIMESTAMP: "2026-02-03T08:15:00Z",
    Kind.JSON: {"a": 1},
    Kind.UUID: "5b2c6c1e-0b5a-4a53-9a0e-6a2f5a1f7c11",
    Kind.TEXTS: ["a"],
    Kind.NUMBERS: [1.5],
}


def put_row(session, entity):
    """Insert a row that fills every field but links; tell whether there can be such a row."""
    if any(f.target and f.required for f in entity.fields):
        return False
    values = {}
    for one in entity.fields:
        sample = SAMPLES[one.kind]
        if one.enum:
            sample = [one.enum[0]] if one.kind.is_array else one.enum[0]
        if not one.target:
            values[one.name] = ddl.literal(input_text(CONVERTERS[one.kind](sample)), one.kind)
    columns = sql.SQL(", ").join([sql.Identifier(name) for name in ("created_at", *values)])
    rows = sql.SQL(", ").join([sql.SQL("now()"), *values.values()])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
    run(session, statement.format(ddl.table("probe", entity.name), columns, rows))
    return True


def only_row(session, name):
    """Return the one row of a table, every value as text."""
    query = sql.SQL("SELECT row_to_json(t) FROM {} t").format(ddl.table("probe", name))
    (row,) = run(session, query).scalars()
    return row


@given(before=contracts(), after=contracts())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_keep_what_both_versions_have(database_url, before, after):
    engine = create_engine(database_url)
    first, second = (
        contract.load(normalise(Node({"dataContract": body}))) for body in (before, after)
    )
    with Session(engine) as session:
        sync.apply(session, "probe", first)
        filled = [name for name, entity in first.items() if put_row(session, entity)]
        rows = {name: only_row(session, name) for name in filled}
        logged = session.scalar(text("SELECT count(*) FROM trellis.audit_log"))
        assert logged == len(filled)
        try:
            sync.apply(session, "probe", second)
        except Conflict:
            session.rollback()
            reject()
        assert session.scalar(text("SELECT count(*) FROM trellis.audit_log")) == logged
        for name in filled:
            now = only_row(session, name)
            kept = {f.name for f in first[name].fields} | {"id", "created_at", "updated_at"}
            if name in second:
                kinds = {f.name: f.kind for f in second[name].fields}
                kept = {"id", "created_at", "updated_at"} | {
                    f.name for f in first[name].fields if kinds.get(f.name) is f.kind
                }
            assert {n: now[n] for n in kept} == {n: rows[name][n] for n in kept}
        session.rollback()
    engine.dispose()


def _drift(session, entities):
    return [
        c for c in sync.plan(session, "probe", entities).changes if c.change_type != "drop_table"
    ]
