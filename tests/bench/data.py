"""Q5: create and list records, beside Directus and Parse Server. ``python -m tests.bench.data``.

Ours runs with audit, permissions, row policies and ``updated_at`` on. Every side has 100k rows and
an index for the order of the list; all sides use one Postgres and take turns. CPU per request, unlike the rate, hardly depends on how
busy the machine is.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import psycopg2

from tests.bench import load, npm_peers, stacks
from tests.bench.npm_peers import THING, Side
from tests.bench.rounds import FULL, Rounds
from tests.bench.scratch import Missing

MANIFEST = {
    "appId": "shop",
    "name": "Shop",
    "dataContract": [
        {
            "entityName": "things",
            "fields": [
                {"name": "name", "type": "text", "required": True},
                {"name": "amount", "type": "number"},
                {"name": "status", "type": "text", "enum_values": ["open", "done"]},
                {"name": "note", "type": "text"},
            ],
        }
    ],
}
CLIENTS = 16
TARGETS = {"create": (8, 16), "list": (5.5, 10)}
THINGS = "/api/v1/apps/shop/collections/things"


@contextmanager
def ours(bench: stacks.Bench) -> Iterator[Side]:
    """Install the app and fill its table."""
    bench.admin.post("/apps", json=MANIFEST).raise_for_status()
    url = bench.stack.env["DATABASE_URL"].replace("+psycopg2", "")
    connection = psycopg2.connect(url)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(
        "INSERT INTO shop.things (created_at, name, amount, status, note)"
        " SELECT now() - n * interval '1 second', 'thing ' || n, n, 'open', 'a short note'"
        f" FROM generate_series(1, {npm_peers.ROWS}) n"
    )
    cursor.execute("VACUUM ANALYZE shop.things")

    def count() -> int:
        """Return the number of rows; every one has its audit entry."""
        cursor.execute("SELECT (SELECT count(*) FROM shop.things), count(*) FROM trellis.audit_log")
        rows, entries = cursor.fetchone()
        assert rows == entries, f"{rows} rows, {entries} audit entries"
        return int(rows)

    try:
        yield Side(
            "ours",
            bench.stack.processes["web"].pid,
            bench.port,
            load.request(THINGS, THING, token=bench.token, port=bench.port),
            load.request(f"{THINGS}?limit=20", method="GET", token=bench.token, port=bench.port),
            count,
        )
    finally:
        connection.close()


def main(rounds: Rounds = FULL) -> None:
    """Measure all sides in turns and print min / median / max, ratios and what went wrong."""
    with ExitStack() as stack:
        bench = stack.enter_context(stacks.platform("web"))
        sides = [stack.enter_context(ours(bench))]
        assert len(bench.admin.get("/apps/shop/collections/things?limit=20").json()) == 20
        server = bench.stack.env["DATABASE_URL"]
        for name, start in (("directus", npm_peers.directus), ("parse", npm_peers.parse_server)):
            url = stack.enter_context(stacks.database(server, f"bench_{name}"))
            try:
                sides.append(stack.enter_context(start(url)))
            except Missing as exc:
                print(f"Q5 without {name}: {exc}")
        for what in TARGETS:
            _compare(what, sides, _postgres(server.replace("+psycopg2", "")), rounds)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds a process and its descendants have used."""
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


def _postgres(url: str) -> int:
    """Return the process id of the server behind a database."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        parent = psutil.Process(cursor.fetchone()[0]).ppid()
    connection.close()
    return parent


def _compare(what: str, sides: list[Side], postgres: int, rounds: Rounds) -> None:
    found: dict[str, list[load.Load]] = {side.name: [] for side in sides}
    before = {side.name: side.count() for side in sides}
    sent = dict.fromkeys(found, 0)
    cpu: dict[str, list[list[float]]] = {side.name: [] for side in sides}
    for number in range(rounds.total):
        for side in sides:
            data = side.create if what == "create" else side.listing
            began = _cpu_s(side.pid), _cpu_s(postgres)
            one = load.run(data, b"", port=side.port, clients=CLIENTS, seconds=rounds.seconds)
            used = _cpu_s(side.pid) - began[0], _cpu_s(postgres) - began[1]
            sent[side.name] += len(one.latencies_ms)
            if number >= rounds.warm_ups:
                found[side.name].append(one)
                cpu[side.name].append([1000 * x / len(one.latencies_ms) for x in used])
    medians = {}
    for side in sides:
        loads = found[side.name]
        rates = [one.per_second for one in loads]
        medians[side.name] = statistics.median(rates)
        stored = side.count() - before[side.name]
        right = sent[side.name] if what == "create" else 0
        print(
            f"Q5 {what:6s} {side.name:8s} {min(rates):6.0f} /{medians[side.name]:6.0f}"
            f" /{max(rates):6.0f} per s   p50 {statistics.median(one.p50 for one in loads):6.1f} ms"
            f"  p99 {statistics.median(one.percentile(0.99) for one in loads):6.1f} ms"
            f"  CPU {_middle(cpu[side.name], 0):.2f} + Postgres {_middle(cpu[side.name], 1):.2f} ms"
            f"  failed {sum(one.failed for one in loads)}  stored {stored} of {right}"
        )
    must, aim = TARGETS[what]
    for name, rate in medians.items():
        if name != "ours":
            targets = f"  (must >= {must}, aim {aim})" if name == "Directus" else ""
            print(f"Q5 {what:6s} ratio to {name} {medians['ours'] / rate:.2f}{targets}")


def _middle(pairs: list[list[float]], place: int) -> float:
    return statistics.median(pair[place] for pair in pairs)


if __name__ == "__main__":
    main()
