"""The web process under gunicorn: one slow query or many streams stall nobody."""

import threading
import time

import psycopg2

from tests.support.stack import wait_until


def test_a_slow_query_does_not_stall_other_requests(start_platform):
    platform = start_platform("web", WEB_CONCURRENCY="1")
    blocker = psycopg2.connect(platform.database_url.replace("+psycopg2", ""))
    blocker.cursor().execute("LOCK TABLE trellis.apps IN ACCESS EXCLUSIVE MODE")
    answers = []
    slow = threading.Thread(target=lambda: answers.append(platform.admin.get("/apps").status_code))
    slow.start()
    try:
        time.sleep(0.5)
        started = time.monotonic()
        with platform.stack.client(
            platform.admin.headers["Authorization"].removeprefix("Bearer ")
        ) as other:
            for _ in range(10):
                assert other.get("/auth/me").status_code == 200
        assert time.monotonic() - started < 2
        assert answers == []
    finally:
        blocker.close()
    slow.join(10)
    assert answers == [200]


def test_password_hashing_does_not_stall_other_requests(start_platform):
    platform = start_platform("web", WEB_CONCURRENCY="1")

    def guess():
        with platform.stack.client() as anonymous:
            anonymous.post("/auth/login", json={"email": "admin@example.com", "password": "wrong"})

    threads = [threading.Thread(target=guess) for _ in range(30)]
    for thread in threads:
        thread.start()
    latencies = []
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert platform.admin.get("/auth/me").status_code == 200
        latencies.append(time.monotonic() - started)
    assert latencies
    assert sorted(latencies)[len(latencies) // 2] < 0.5


def test_the_api_recovers_from_a_lost_database(start_platform, servers):
    platform = start_platform("web")
    url = platform.database_url.replace("+psycopg2", "")
    name = url.rsplit("/", 1)[1]
    admin_connection = psycopg2.connect(url.rsplit("/", 1)[0] + "/postgres")
    admin_connection.autocommit = True
    with admin_connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        answer = platform.admin.get("/auth/me")
        assert (answer.status_code, answer.json()) == (503, {"error": "database not available"})
        cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    admin_connection.close()
    wait_until(
        lambda: platform.admin.get("/auth/me").status_code == 200, timeout=5, what="recovery"
    )
