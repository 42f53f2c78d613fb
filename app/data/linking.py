"""Records of different apps that describe the same thing: linked and federated reads.

Source: REST contract part 20, sections 6 and 7.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg2 import sql
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.errors import Invalid
from app.core.uow import UnitOfWork
from app.data import filters, registry, repository
from app.data.access import STATEMENT_TIMEOUT, Cast, Target
from app.data.contract import Entity, Field
from app.data.execution import render
from app.data.filters import Condition
from app.data.requests import Query
from app.data.statements import Statements
from app.data.values import JSONValue, Kind

SORTABLE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


@dataclass(frozen=True, slots=True)
class Peer:
    """An entity with an identity that the actor may read."""

    app_id: str
    entity: Entity
    statements: Statements


def peers(session: Session, actor: Actor, identity_kind: str) -> list[Peer]:
    """Return every readable entity of a kind, by app, in manifest order."""
    found = []
    for app_id, stamp in sorted(repository.stamps(session).items()):
        data = registry.load(session, app_id, stamp)
        for name, entity in (data.entities if data else {}).items():
            if entity.identity_kind == identity_kind and actor.can(f"app:{app_id}:{name}.read"):
                assert data is not None  # noqa: S101 - the loop has it
                found.append(Peer(app_id, entity, data.statements[name].quoted(session)))
    return found


def wanted_apps(linked: JSONValue) -> Collection[str] | bool:
    """Return which apps a ``linked`` value asks for: all, none, or the listed ones."""
    if linked is None or isinstance(linked, bool):
        return bool(linked)
    if isinstance(linked, str):
        if linked.lower() in {"", "false"}:
            return False
        return True if linked.lower() == "true" else linked.split(",")
    return frozenset(linked)


def linked_peers(target: Target, actor: Actor, linked: JSONValue) -> list[Peer]:
    """Return the entities whose rows are shown beside those of an opened entity."""
    wanted = wanted_apps(linked)
    kind = target.entity.identity_kind
    if kind is None or wanted is False or actor.user_id is None:
        return []
    return [
        peer
        for peer in peers(target.session, actor, kind)
        if peer.app_id != target.app_id and (wanted is True or peer.app_id in wanted)
    ]


def linked_rows(
    target: Target, peers: list[Peer], where: sql.Composable, order: sql.Composable
) -> sql.Composed:
    """Return: one JSON text per record, with ``_linked`` where something matches.

    Parameters end with limit and offset.
    """
    page = sql.SQL(
        "SELECT row_number() OVER (ORDER BY {order}) AS n, row_to_json(shown)::text AS record,"
        " t.{key}::text AS key FROM {table} t CROSS JOIN LATERAL (SELECT {columns}) shown"
        " WHERE {where} ORDER BY {order} LIMIT %s OFFSET %s"
    ).format(
        order=order,
        key=sql.Identifier(target.entity.identity_key or "id"),
        table=target.statements.table,
        columns=target.statements.columns,
        where=where,
    )
    return sql.SQL(
        "SELECT p.n, CASE WHEN l.found IS NULL THEN p.record ELSE"
        " left(p.record, -1) || ',\"_linked\":' || l.found::text || '}}' END AS record"
        " FROM ({}) p LEFT JOIN LATERAL (SELECT json_object_agg(m.app, m.match) AS found"
        " FROM (VALUES {}) m (app, match) WHERE m.match IS NOT NULL) l ON true"
    ).format(page, sql.SQL(", ").join(_matches(peers)))


def linked_page(
    target: Target, peers: list[Peer], where: sql.Composable, order: sql.Composable
) -> sql.Composed:
    """Return: JSON array of one page with ``_linked``; parameters end with limit and offset."""
    return sql.SQL(
        "SELECT coalesce('[' || string_agg(r.record, ',' ORDER BY r.n) || ']', '[]') FROM ({}) r"
    ).format(linked_rows(target, peers, where, order))


def _matches(peers: list[Peer]) -> Iterator[sql.Composed]:
    by_app: dict[str, list[Peer]] = {}
    for peer in peers:
        by_app.setdefault(peer.app_id, []).insert(0, peer)
    for app_id, entities in by_app.items():
        # The last entity in manifest order that has a match is shown.
        choices = sql.SQL(", ").join(_match(peer) for peer in entities)
        yield sql.SQL("({}, COALESCE({}))").format(sql.Literal(app_id), choices)


def _match(peer: Peer) -> sql.Composed:
    return sql.SQL(
        "(SELECT json_build_object('entity', {name}, 'recordId', x.id::text,"
        " 'data', row_to_json(x)) FROM (SELECT {columns} FROM {table} t"
        " WHERE t.{key}::text = p.key ORDER BY t.created_at DESC, t.id LIMIT 1) x)"
    ).format(
        name=sql.Literal(peer.entity.name),
        columns=peer.statements.columns,
        table=peer.statements.table,
        key=sql.Identifier(peer.entity.identity_key or "id"),
    )


def federated_query(
    uow: UnitOfWork,
    actor: Actor,
    *,
    identity_kind: str,
    body: JSONValue,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
) -> str:
    """Return rows of every readable entity of a kind as ``{"data": [...], "total": n}``.

    Raises:
        Invalid: the body breaks a rule.
    """
    query = Query.of(body)
    if not query.sort or not SORTABLE.issuperset(query.sort):
        raise Invalid(f"invalid sort field '{query.sort}'")
    limit_ms = round(statement_timeout.total_seconds() * 1000)
    repository.set_context(uow.session, actor, limit_ms)
    found = peers(uow.session, actor, identity_kind)
    if not found:
        return '{"data":[],"total":0}'
    parts, parameters, casts = _branches(found, query)
    union = sql.SQL(" UNION ALL ").join(parts)
    direction = sql.SQL("DESC" if query.descending else "ASC")
    statement = sql.SQL(
        "WITH every AS ({union}) SELECT"
        " (SELECT coalesce('[' || string_agg(record, ',' ORDER BY n) || ']', '[]') FROM"
        "  (SELECT record, row_number() OVER (ORDER BY {order}) AS n FROM every"
        "   ORDER BY {order} LIMIT %s OFFSET %s) page),"
        " (SELECT count(*) FROM every)"
    ).format(
        union=union,
        order=sql.SQL(
            "moment {0} NULLS LAST, number {0} NULLS LAST, words {0} NULLS LAST, id, source"
        ).format(direction),
    )
    first = found[0]
    target = Target(uow.session, first.app_id, first.entity, first.statements, hooked=False)
    return target.page_with_total(
        render(uow.session, statement), [*parameters, query.limit, query.offset], casts
    )


def _branches(
    found: list[Peer], query: Query
) -> tuple[list[sql.Composed], list[Any], list[Cast]]:  # Any: values psycopg2 adapts
    known: dict[str, Field] = {}
    for peer in found:
        known = {**peer.entity.by_name, **known}
    parts, parameters, casts = [], [], []
    for peer in found:
        condition, where = Condition(), filters.TRUE
        if query.where is not None:
            everywhere = {name: replace(field, absent=True) for name, field in known.items()}
            fields = {**everywhere, **peer.entity.by_name}
            where, condition = filters.where(fields, query.where)  # type: ignore[assignment]
        parts.append(_branch(peer, where, query.sort))
        parameters += condition.parameters
        casts += condition.casts
    return parts, parameters, casts


def _branch(peer: Peer, where: sql.Composable, sort: str) -> sql.Composed:
    return sql.SQL(
        "SELECT left(row_to_json(shown)::text, -1) || {source} AS record, {keys}, t.id::text AS id,"
        " {source} AS source FROM {table} t CROSS JOIN LATERAL (SELECT {columns}) shown WHERE {where}"
    ).format(
        source=sql.Literal(f',"_source":{{"app":"{peer.app_id}","entity":"{peer.entity.name}"}}}}'),
        keys=_sort_keys(peer.entity.by_name, sort),
        table=peer.statements.table,
        columns=peer.statements.columns,
        where=where,
    )


def _sort_keys(fields: Mapping[str, Field], sort: str) -> sql.Composed:
    """Return the three columns rows are ordered by: times, numbers and texts do not mix."""
    field = fields.get(sort)
    kind = field.kind if field else None
    column = sql.SQL("t.{}").format(sql.Identifier(sort))
    null = sql.SQL("NULL")
    stamps = sort in {"created_at", "updated_at"}
    words = kind is not None and not stamps and kind is not Kind.NUMBER
    return sql.SQL(
        "{}::timestamptz AS moment, {}::double precision AS number, {}::text AS words"
    ).format(
        column if stamps else null,
        column if kind is Kind.NUMBER else null,
        column if words else null,
    )
