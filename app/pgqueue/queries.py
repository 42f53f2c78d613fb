"""Every SQL statement of the queue, in one place.

Templates are filled once, when a ``Queue`` is made, with the names of its layout; values always
travel as parameters. A message is *fresh* until its first delivery unless it was delayed. Fresh
messages are found in order by one partial index, the others, which are few, by the time they
become visible by another: so a claim reads as many rows as it takes, whatever waits behind them.
``statement_timestamp()`` stands for the contract's ``clock_timestamp()``: an index can use it.

Source: REST contract part 30, section 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

from sqlalchemy import TextClause, text

from app.pgqueue.types import Layout

FIXED = "msg_id, read_ct, enqueued_at, last_read_at, vt, priority, attempts, last_error"

SEND = """
INSERT INTO {live} ({columns}, priority, fresh, vt)
SELECT {casts}, m.priority, m.delay_s <= 0, clock_timestamp() + make_interval(secs => m.delay_s)
FROM unnest({arrays}, CAST(:priority AS int[]), CAST(:delay_s AS float8[]))
    WITH ORDINALITY AS m({columns}, priority, delay_s, place)
ORDER BY m.place
RETURNING msg_id
"""

SEND_SELECTED = """
INSERT INTO {live} ({columns}) SELECT {columns} FROM ({selection}) s ORDER BY place
RETURNING msg_id
"""

# ``durability`` other than NULL is the transaction's ``synchronous_commit``.
# The times of rows that were locked meanwhile are looked at again, in a form no index matches: the
# planner would otherwise walk through the hidden messages of every lane.
CLAIM = """
WITH candidate AS (
    SELECT f.msg_id, f.priority FROM (
        SELECT msg_id, priority FROM {live}
        WHERE {in_lane} AND fresh
        ORDER BY priority DESC, msg_id LIMIT :quantity FOR UPDATE SKIP LOCKED
    ) f
    UNION ALL
    SELECT h.msg_id, h.priority FROM (
        SELECT q.msg_id, q.priority FROM {live} q
        WHERE q.msg_id = ANY (ARRAY(
            SELECT msg_id FROM {live}
            WHERE {in_lane} AND NOT fresh AND vt <= statement_timestamp()
            ORDER BY vt LIMIT :window
        )) AND q.vt - interval '0 s' <= statement_timestamp()
        ORDER BY q.priority DESC, q.msg_id LIMIT :quantity FOR UPDATE SKIP LOCKED
    ) h
), chosen AS (
    SELECT msg_id FROM candidate
    WHERE CAST(:durability AS text) IS NULL
        OR (SELECT set_config('synchronous_commit', :durability, true)) IS NOT NULL
    ORDER BY priority DESC, msg_id LIMIT :quantity
)
UPDATE {live} q
SET vt = clock_timestamp() + make_interval(secs => :vt_s), read_ct = q.read_ct + 1,
    last_read_at = clock_timestamp(), fresh = false
WHERE q.msg_id = ANY (ARRAY(SELECT msg_id FROM chosen))
RETURNING q.msg_id, q.read_ct, q.enqueued_at, q.attempts, q.priority, {q_columns}
"""

WAITS = """
SELECT EXISTS (SELECT FROM {live} WHERE {in_lane} AND fresh)
    OR EXISTS (
        SELECT FROM {live} WHERE {in_lane} AND NOT fresh AND vt <= statement_timestamp()
    )
"""

SET_VT = """
UPDATE {live}
SET vt = clock_timestamp() + make_interval(secs => :vt_s), fresh = false
WHERE msg_id = :msg_id AND (CAST(:read_ct AS int) IS NULL OR read_ct = :read_ct)
RETURNING vt
"""

RELEASE = """
UPDATE {live} q
SET vt = clock_timestamp() + make_interval(secs => r.delay_s),
    read_ct = q.read_ct - r.uncount,
    attempts = q.attempts + CASE WHEN r.error IS NULL THEN 0 ELSE 1 END,
    last_error = coalesce(r.error, q.last_error), last_read_at = NULL
FROM unnest(CAST(:msg_id AS bigint[]), CAST(:read_ct AS int[]), CAST(:delay_s AS float8[]),
    CAST(:error AS text[]), CAST(:uncount AS int[])) AS r(msg_id, read_ct, delay_s, error, uncount)
WHERE q.msg_id = r.msg_id AND q.read_ct = r.read_ct
RETURNING q.msg_id
"""

ARCHIVE = """
WITH done AS (
    DELETE FROM {live} WHERE msg_id = ANY (CAST(:msg_id AS bigint[])) RETURNING *
)
INSERT INTO {archive} ({fixed}, {columns})
SELECT {fixed}, {columns} FROM done
RETURNING msg_id
"""

DELETE = "DELETE FROM {live} WHERE msg_id = ANY (CAST(:msg_id AS bigint[])) RETURNING msg_id"

DEAD_LETTER = """
WITH failed AS (
    SELECT * FROM unnest(CAST(:msg_id AS bigint[]), CAST(:read_ct AS int[]),
        CAST(:reason AS text[]), CAST(:error AS text[]), CAST(:uncount AS int[]))
        AS f(f_id, f_read_ct, reason, error, uncount)
), gone AS (
    DELETE FROM {live} q USING failed f
    WHERE q.msg_id = f.f_id AND (f.f_read_ct IS NULL OR q.read_ct = f.f_read_ct)
    RETURNING q.*, f.reason, f.error, f.uncount
)
INSERT INTO {dead} ({fixed}, {columns}, reason)
SELECT msg_id, read_ct - uncount, enqueued_at, last_read_at, vt, priority,
    attempts + CASE WHEN error IS NULL THEN 0 ELSE 1 END, coalesce(error, last_error),
    {columns}, reason
FROM gone
RETURNING msg_id
"""

REVIVE = """
WITH back AS (
    DELETE FROM {dead} WHERE {in_first_lane}
        AND (CAST(:msg_id AS bigint[]) IS NULL OR msg_id = ANY (CAST(:msg_id AS bigint[])))
    RETURNING *
)
INSERT INTO {live} (msg_id, enqueued_at, vt, priority, fresh, last_error, {columns})
OVERRIDING SYSTEM VALUE
SELECT msg_id, enqueued_at, clock_timestamp(), priority, true, last_error, {columns} FROM back
RETURNING msg_id
"""

VISIBLE_LANES = """
WITH RECURSIVE fresh_lane AS (
    (SELECT {lane} FROM {live} WHERE fresh ORDER BY {lane} LIMIT 1)
    UNION ALL
    SELECT n.* FROM fresh_lane l CROSS JOIN LATERAL (
        SELECT {lane} FROM {live} q WHERE q.fresh AND ({q_lane}) > ({l_lane})
        ORDER BY {q_lane} LIMIT 1
    ) n
), hidden_lane AS (
    (SELECT {lane}, vt FROM {live} WHERE NOT fresh ORDER BY {lane}, vt LIMIT 1)
    UNION ALL
    SELECT n.* FROM hidden_lane l CROSS JOIN LATERAL (
        SELECT {q_lane}, q.vt FROM {live} q WHERE NOT q.fresh AND ({q_lane}) > ({l_lane})
        ORDER BY {q_lane}, q.vt LIMIT 1
    ) n
)
SELECT {lane} FROM fresh_lane
UNION
SELECT {lane} FROM hidden_lane WHERE vt <= statement_timestamp()
"""

DEADLINES = """
SELECT msg_id, read_ct, extract(epoch FROM vt - clock_timestamp())
FROM {live} WHERE msg_id = ANY (CAST(:msg_id AS bigint[]))
"""

FORGET_LIVE = "DELETE FROM {live} WHERE {in_first_lane}"
FORGET_ARCHIVE = "DELETE FROM {archive} WHERE {in_first_lane}"
FORGET_DEAD = "DELETE FROM {dead} WHERE {in_first_lane}"

PRUNE_ARCHIVE = """
DELETE FROM {archive} WHERE msg_id IN (
    SELECT msg_id FROM {archive} WHERE archived_at < now() - make_interval(secs => :age_s)
    ORDER BY archived_at LIMIT :most
)
"""
PRUNE_DEAD = """
DELETE FROM {dead} WHERE msg_id IN (
    SELECT msg_id FROM {dead} WHERE failed_at < now() - make_interval(secs => :age_s)
    ORDER BY failed_at LIMIT :most
)
"""

# Statements of the hot path that are worth a kept plan, where the session can keep one.
PREPARED = ("claim", "archive", "waits")

METRICS = """
SELECT count(*) AS queue_length,
    count(*) FILTER (WHERE vt <= clock_timestamp()) AS queue_visible_length,
    extract(epoch FROM clock_timestamp() - max(enqueued_at))::float8 AS newest_msg_age_sec,
    extract(epoch FROM clock_timestamp() - min(enqueued_at))::float8 AS oldest_msg_age_sec,
    coalesce(pg_sequence_last_value(pg_get_serial_sequence(:table, 'msg_id')), 0)
        AS total_messages,
    clock_timestamp() AS scrape_time
FROM {live}
"""


@dataclass(frozen=True, slots=True)
class Queries:
    """The statements of one queue, ready to execute."""

    send: TextClause
    claim: TextClause
    waits: TextClause
    set_vt: TextClause
    release: TextClause
    archive: TextClause
    delete: TextClause
    dead_letter: TextClause
    revive: TextClause
    visible_lanes: TextClause
    deadlines: TextClause
    forget_live: TextClause
    forget_archive: TextClause
    forget_dead: TextClause
    prune_archive: TextClause
    prune_dead: TextClause
    metrics: TextClause


def compose(layout: Layout) -> Queries:
    """Fill the templates with the names of a layout, which come from our own source."""
    names = _names(layout)
    statements = {f.name: text(globals()[f.name.upper()].format(**names)) for f in fields(Queries)}
    for name in PREPARED:
        options = {"trellis_often": True, "trellis_by_index": True}
        statements[name] = statements[name].execution_options(**options)
    return Queries(**statements)


@cache
def selected(live: str, columns: tuple[str, ...], selection: str) -> TextClause:
    """Return the statement that sends a message per row of a selection of our own source."""
    names = {"live": live, "columns": ", ".join(columns), "selection": selection}
    return text(SEND_SELECTED.format(**names)).execution_options(trellis_often=True)


def _names(layout: Layout) -> Mapping[str, str]:
    types = {**dict.fromkeys(layout.lane, "text"), **layout.body}
    return {
        "live": layout.live,
        "archive": layout.archive,
        "dead": layout.dead,
        "fixed": FIXED,
        "columns": ", ".join(layout.columns),
        "q_columns": ", ".join(f"q.{c}" for c in layout.columns),
        "casts": ", ".join(f"CAST(m.{c} AS {types[c]})" for c in layout.columns),
        "arrays": ", ".join(f"CAST(:{c} AS text[])" for c in layout.columns),
        "lane": ", ".join(layout.lane),
        "q_lane": ", ".join(f"q.{c}" for c in layout.lane),
        "l_lane": ", ".join(f"l.{c}" for c in layout.lane),
        "in_lane": " AND ".join(f"{c} = :{c}" for c in layout.lane),
        "in_first_lane": f"{layout.lane[0]} = :{layout.lane[0]}",
    }
