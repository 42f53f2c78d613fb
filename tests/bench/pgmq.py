"""Our queue beside the public pgmq, step by step: does it do what pgmq does?

pgmq's SQL comes from its Python package, into a database of its own on the same server. Both
queues get the same random steps; what each step returns, and what is in the tables afterwards,
must be the same. ``python -m tests.bench pgmq``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg2
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from app.embedded.options import ServerOptions
from app.embedded.servers import temporary_servers
from app.jobs.repository import QUEUE
from app.pgqueue.types import Outgoing
from tests.bench import scratch, stacks
from tests.bench.rounds import SHORT, Rounds
from tests.support.databases import Databases

PACKAGE = "pgmq==1.1.4"
LANE = {"app_id": "crm", "route": "worker"}
# Seconds: either over at once or not before the end of the bench.
DELAYS = (0, 0, 0, 3600)
TIMEOUTS = (0, 1800, 3600)
# What a step of time moves back, so that nothing has to be waited for.
HOUR = "interval '1 hour'"
HIDDEN = (
    "(CASE WHEN vt <= clock_timestamp() THEN 0"
    " WHEN vt <= clock_timestamp() + interval '1801 s' THEN 1 ELSE 2 END)"
)


@dataclass(frozen=True, order=True)
class Row:
    """A message as both queues know it.

    Attributes:
        hidden: 0 = visible, 1 = for up to half an hour, 2 = for longer.
    """

    number: int
    read_ct: int
    hidden: int


class Ours:
    """Our queue behind pgmq's operations."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, numbers: Sequence[int], delay: int) -> list[int]:
        """Send one message per number."""
        values = {**LANE, "source": "api", "user_id": None, "max_attempts": "1"}
        messages = [Outgoing({**values, "payload": str(n)}, delay_s=delay) for n in numbers]
        return self._done(QUEUE.send(self._session, messages))

    def read(self, vt: int, qty: int) -> list[tuple[int, int]]:
        """Return ids and counts of what was read."""
        found = QUEUE.claim(self._session, LANE, quantity=qty, vt_s=vt)
        return self._done(sorted((one.msg_id, one.read_ct) for one in found))

    def read_and_roll_back(self, vt: int, qty: int) -> list[tuple[int, int]]:
        """Read in a transaction that is undone."""
        found = QUEUE.claim(self._session, LANE, quantity=qty, vt_s=vt)
        self._session.rollback()
        return sorted((one.msg_id, one.read_ct) for one in found)

    def archive(self, ids: Sequence[int]) -> list[int]:
        """Archive; return what was there."""
        return self._done(sorted(QUEUE.archive(self._session, ids)))

    def delete(self, ids: Sequence[int]) -> list[int]:
        """Delete; return what was there."""
        return self._done(sorted(QUEUE.delete(self._session, ids)))

    def set_vt(self, msg_id: int, seconds: int) -> bool:
        """Tell whether the message was there."""
        return self._done(QUEUE.set_vt(self._session, msg_id, seconds) is not None)

    def an_hour_passes(self) -> None:
        """Move every timeout back."""
        self._session.execute(text(f"UPDATE trellis.jobs_queue SET vt = vt - {HOUR}"))
        self._session.commit()

    def metrics(self) -> tuple[int, int]:
        """Return length and visible length."""
        found = QUEUE.metrics(self._session)
        return self._done((found.queue_length, found.queue_visible_length))

    def rows(self, archived: bool) -> list[Row]:
        """Return what is in the queue, or in the archive."""
        table = "jobs_archive" if archived else "jobs_queue"
        hidden = "0" if archived else HIDDEN
        found = self._session.execute(
            text(f"SELECT payload::text::int, read_ct, {hidden} FROM trellis.{table}")
        )
        return self._done(sorted(Row(*row) for row in found))

    def _done(self, value: Any) -> Any:
        self._session.commit()
        return value


class Pgmq:
    """pgmq's own functions."""

    def __init__(self, connection: Any) -> None:
        connection.autocommit = True
        self._connection = connection
        self._run("SELECT pgmq.create('q')")

    def send(self, numbers: Sequence[int], delay: int) -> list[int]:
        """As ours."""
        messages = [str(n) for n in numbers]
        return self._column("SELECT pgmq.send_batch('q', %s::jsonb[], %s)", messages, delay)

    def read(self, vt: int, qty: int) -> list[tuple[int, int]]:
        """As ours."""
        return sorted(self._run("SELECT msg_id, read_ct FROM pgmq.read('q', %s, %s)", vt, qty))

    def read_and_roll_back(self, vt: int, qty: int) -> list[tuple[int, int]]:
        """As ours."""
        self._run("BEGIN")
        found = self.read(vt, qty)
        self._run("ROLLBACK")
        return found

    def archive(self, ids: Sequence[int]) -> list[int]:
        """As ours."""
        return sorted(self._column("SELECT pgmq.archive('q', %s::bigint[])", list(ids)))

    def delete(self, ids: Sequence[int]) -> list[int]:
        """As ours."""
        return sorted(self._column("SELECT pgmq.delete('q', %s::bigint[])", list(ids)))

    def set_vt(self, msg_id: int, seconds: int) -> bool:
        """As ours."""
        return bool(self._run("SELECT pgmq.set_vt('q', %s, %s)", msg_id, seconds))

    def an_hour_passes(self) -> None:
        """As ours."""
        self._run(f"UPDATE pgmq.q_q SET vt = vt - {HOUR}")

    def metrics(self) -> tuple[int, int]:
        """As ours."""
        (row,) = self._run("SELECT queue_length, queue_visible_length FROM pgmq.metrics('q')")
        return row

    def rows(self, archived: bool) -> list[Row]:
        """As ours."""
        table = "a_q" if archived else "q_q"
        hidden = "0" if archived else HIDDEN
        query = f"SELECT message::text::int, read_ct, {hidden} FROM pgmq.{table}"
        return sorted(Row(*row) for row in self._run(query))

    def _column(self, query: str, *values: object) -> list[int]:
        return [row[0] for row in self._run(query, *values)]

    def _run(self, query: str, *values: object) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []


class Twins:
    """Both queues; each step is done by both, and answers are compared by position of sending."""

    def __init__(self, ours: Ours, theirs: Pgmq, pick: random.Random) -> None:
        self._sides = (ours, theirs)
        self._pick = pick
        self._sent = 0
        self._numbers: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.steps: Counter[str] = Counter()

    def step(self) -> None:
        """Do one random step on both.

        Raises:
            SystemExit: they differ.
        """
        kinds: dict[str, Callable[[], None]] = {
            "send": self._send,
            "read": self._read,
            "archive": lambda: self._by_ids("archive"),
            "delete": lambda: self._by_ids("delete"),
            "set_vt": self._set_vt,
            "an_hour_passes": lambda: self._both("an_hour_passes"),
            "metrics": lambda: self._both("metrics"),
        }
        kind = self._pick.choices(list(kinds), (4, 6, 3, 2, 3, 1, 1))[0]
        self.steps[kind] += 1
        kinds[kind]()
        if sum(self.steps.values()) % 20 == 0:
            self._both("rows", False)
            self._both("rows", True)

    def _both(self, name: str, *arguments: object) -> None:
        answers = [getattr(side, name)(*arguments) for side in self._sides]
        self._same(f"{name}{arguments}", *answers)

    def _send(self) -> None:
        numbers = list(range(self._sent, self._sent + self._pick.choice((1, 1, 2, 7))))
        delay = self._pick.choice(DELAYS)
        for side, known in zip(self._sides, self._numbers, strict=True):
            ids = side.send(numbers, delay)
            assert ids == sorted(ids), "ids are not in the order of the messages"
            known.update(zip(ids, numbers, strict=True))
        self._sent += len(numbers)

    def _read(self) -> None:
        vt, qty = self._pick.choice(TIMEOUTS), self._pick.choice((1, 1, 3, 10))
        name = "read_and_roll_back" if self._pick.random() < 0.1 else "read"
        answers = [
            sorted((known[msg_id], read_ct) for msg_id, read_ct in getattr(side, name)(vt, qty))
            for side, known in zip(self._sides, self._numbers, strict=True)
        ]
        self._same(f"{name}({vt}, {qty})", *answers)

    def _by_ids(self, name: str) -> None:
        numbers = {self._pick.randint(0, self._sent + 2) for _ in range(self._pick.choice((1, 4)))}
        answers = []
        for side, known in zip(self._sides, self._numbers, strict=True):
            ids = [self._id(known, number) for number in numbers]
            answers.append(sorted(known[msg_id] for msg_id in getattr(side, name)(ids)))
        self._same(f"{name}({numbers})", *answers)

    def _set_vt(self) -> None:
        number = self._pick.randint(0, self._sent + 2)
        seconds = self._pick.choice((-5, *TIMEOUTS))
        answers = [
            side.set_vt(self._id(known, number), seconds)
            for side, known in zip(self._sides, self._numbers, strict=True)
        ]
        self._same(f"set_vt({number}, {seconds})", *answers)

    def _id(self, known: dict[int, int], number: int) -> int:
        """Return the id of a message, or one that no message ever had."""
        ids = {n: msg_id for msg_id, n in known.items()}
        return ids.get(number, 10**9 + number)

    def _same(self, step: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            raise SystemExit(f"pgmq: {step} differs: ours {ours}, pgmq's {theirs}")


def main(rounds: Rounds) -> None:
    """Compare; print how many steps were the same."""
    try:
        python = scratch.python(PACKAGE)
    except scratch.Missing as exc:
        print(f"pgmq skipped: {exc}")
        return
    (sql,) = python.parents[1].glob("lib/*/site-packages/pgmq/sql/pgmq.sql")
    steps = 500 if rounds == SHORT else 5000
    with ExitStack() as stack:
        servers = stack.enter_context(temporary_servers(ServerOptions(durable=False)))
        databases = stack.enter_context(Databases.on(servers.postgres.url))
        engine = create_engine(stack.enter_context(databases.clone()))
        stack.callback(engine.dispose)
        session = stack.enter_context(Session(engine))
        url = stack.enter_context(stacks.database(servers.postgres.admin_url, "bench_pgmq"))
        connection = psycopg2.connect(url)
        stack.callback(connection.close)
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS pgmq")
            cursor.execute(sql.read_text())
        twins = Twins(Ours(session), Pgmq(connection), random.Random(3))
        for _ in range(steps):
            twins.step()
    done = ", ".join(f"{name} {count}" for name, count in sorted(twins.steps.items()))
    print(f"{PACKAGE}: {steps} steps, all the same ({done})")
