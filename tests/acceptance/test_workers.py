"""Deploys, worker life, RPC, logs and secrets on real processes."""

import io
import json
import secrets
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg2
import pytest
import redis

from tests.support.stack import wait_until

WORKER = """
import os, sys, time
from trellis_worker import serve

STARTED = []
KEPT = {}

def on_start(ctx):
    STARTED.append(time.time())
    ctx.collection("notes").insert({"text": "started"})

def echo(params): return params
def version(): return "VERSION"
def who(params, caller, ctx):
    return {"id": caller.user_id, "email": caller.email, "token": caller.auth_token}
def boom(): raise ValueError("bad thing")
def nothing(): return None
def die(params): os._exit(params)
def sleep(params): time.sleep(params); return "slept"
def big(params): return "x" * params
def secrets(params, caller, ctx): return dict(ctx.secrets)
def started(): return len(STARTED)
def pid(): return os.getpid()
def notes(params, caller, ctx): return len(ctx.collection("notes").find({}))
def keep(params, caller, ctx): KEPT["ctx"] = ctx
def use_kept(): return KEPT["ctx"].collection("notes").find({})
def speak(params, caller, ctx):
    ctx.log.info("order %s stored", params); print("printed"); sys.stderr.write("to stderr\\n")
    ctx.emit("stored", {"id": params})
    os.write(1, b"raw line\\n")
serve(rpc={name: value for name, value in list(globals().items())
           if callable(value) and name not in ("serve", "on_start")}, on_start=on_start)
"""
CONTRACT = [{"entityName": "notes", "fields": [{"name": "text", "type": "text"}]}]


@pytest.fixture(scope="module")
def platform(start_platform_session):
    return start_platform_session("web", "worker")


@pytest.fixture
def app(platform, request):
    """An app of the test's own, deployed."""
    name = "app_" + "".join(c for c in request.node.name if c.islower() or c == "_")[:40]
    platform.install(name, WORKER, dataContract=CONTRACT)
    return name


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def deploy(platform, app, **files):
    """Deploy with a part that has no file name, as clients of the contract do."""
    body = (
        b'--B\r\nContent-Disposition: form-data; name="archive"\r\n\r\n'
        + archive(**files)
        + b"\r\n--B--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    return platform.admin.post(f"/apps/{app}/deploy", content=body, headers=headers)


def answer(response):
    return response.status_code, response.json()


def error(response):
    return response.status_code, response.json()["error"]


def status(platform, app):
    return platform.admin.get(f"/apps/{app}/worker/status").json()


def test_a_deploy_is_answered_when_the_worker_answers(platform):
    platform.install("fresh")
    response = deploy(platform, "fresh", worker__py=WORKER.replace("VERSION", "one"))
    body = response.json()
    assert response.status_code == 200, response.text
    assert body.pop("deploymentId")
    assert body == {"message": "app 'fresh' deployed and started", "migrationsApplied": []}
    found = status(platform, "fresh")
    assert found["status"] == "running"
    assert {"clean-environment", "process-group", "rlimits"} <= set(found["sandbox"])
    assert answer(platform.rpc("fresh", "version")) == (200, "one")


@pytest.mark.parametrize("value", [1, "text", None, [1, "ä"], {"a": {"b": 1.5}}, True])
def test_any_json_value_comes_back(platform, app, value):
    body = {"method": "echo", "params": value}
    given = platform.admin.post(f"/apps/{app}/rpc", json=body)
    assert answer(given) == (200, {} if value is None else value)


def test_errors_of_a_call(platform, app):
    assert answer(platform.rpc(app, "nothing")) == (200, None)
    assert error(platform.rpc(app, "boom")) == (500, "bad thing")
    assert error(platform.rpc(app, "nope")) == (500, "unknown method: nope")
    assert error(platform.rpc(app, "big", 9 * 1024 * 1024)) == (500, "result too large")
    assert answer(platform.rpc(app, "echo", 1)) == (200, 1)


def test_a_result_of_seven_mebibytes_passes(platform, app):
    assert len(platform.rpc(app, "big", 7 * 1024 * 1024).json()) == 7 * 1024 * 1024


def test_the_caller_and_the_token_limited_to_the_app(platform, app):
    caller = platform.rpc(app, "who").json()
    assert caller["email"] == "admin@example.com"
    with platform.stack.client(caller["token"]) as limited:
        own = limited.post(f"/apps/{app}/rpc", json={"method": "version"})
        assert own.status_code == 200
        other = limited.get("/apps/other/worker/status")
        assert error(other) == (403, f"token is limited to app '{app}'")


def test_on_start_ran_once_before_the_first_call_and_may_write(platform, app):
    assert platform.rpc(app, "started").json() == 1
    assert platform.rpc(app, "notes").json() == 1


def test_a_kept_context_is_dead(platform, app):
    platform.rpc(app, "keep")
    code, text = error(platform.rpc(app, "use_kept"))
    assert code == 500
    assert "over" in text.lower()


def test_stop_and_start(platform, app):
    stopped = platform.admin.post(f"/apps/{app}/worker/stop")
    assert answer(stopped) == (200, {"message": f"worker '{app}' stopped"})
    assert status(platform, app)["status"] == "stopped"
    assert status(platform, app)["desired"] == "stopped"
    not_running = (503, f"worker for app '{app}' is not running")
    assert error(platform.rpc(app, "version")) == not_running
    assert platform.admin.post(f"/apps/{app}/worker/stop").status_code == 200
    started = platform.admin.post(f"/apps/{app}/worker/start")
    assert answer(started) == (200, {"message": f"worker '{app}' started"})
    pid = platform.rpc(app, "pid").json()
    assert platform.admin.post(f"/apps/{app}/worker/start").status_code == 200
    assert platform.rpc(app, "pid").json() == pid
    assert platform.admin.get("/workers").json()["workers"][app] == "running"


def test_a_crash_fails_its_calls_and_is_restarted(platform, app):
    assert error(platform.rpc(app, "die", 0)) == (500, "worker crashed")
    assert answer(platform.rpc(app, "echo", 1)) == (200, 1)

    def shown():
        found = status(platform, app)
        return found["status"] == "running" and found["restarts"] == 1

    wait_until(shown, what="the restart to show")


def test_a_crash_loop_gives_up_and_start_recovers(platform, app):
    for _ in range(3):
        assert error(platform.rpc(app, "die", 3))[0] in {500, 503}
        wait_until(lambda: status(platform, app)["status"] == "running", what="the restart")
    # Two more crashes; the delays before them are 2 and 4 s.
    for _ in range(2):
        wait_until(lambda: platform.rpc(app, "die", 3).status_code == 500, what="a process")
    wait_until(lambda: status(platform, app)["status"] == "crashed", what="giving up")
    assert error(platform.rpc(app, "echo", 1)) == (503, f"worker for app '{app}' is not running")
    assert platform.admin.post(f"/apps/{app}/worker/start").status_code == 200
    assert answer(platform.rpc(app, "echo", 1)) == (200, 1)


def test_a_deploy_that_does_not_start_leaves_the_old_code(platform, app):
    deploy(platform, app, worker__py=WORKER.replace("VERSION", "old"))
    code, text = error(deploy(platform, app, worker__py="import sys; sys.exit('no luck')"))
    assert code == 500
    assert text.startswith("worker did not start: exit code 1")
    assert "no luck" in text
    assert answer(platform.rpc(app, "version")) == (200, "old")
    assert status(platform, app)["status"] == "running"


def test_a_first_deploy_that_does_not_start_leaves_the_app_stopped(platform):
    platform.install("broken")
    assert deploy(platform, "broken", worker__py="import sys; sys.exit(3)").status_code == 500
    found = status(platform, "broken")
    assert found["status"] == "stopped"
    assert found["last_error"].startswith("worker did not start: exit code 3")
    assert error(platform.rpc("broken", "x")) == (503, "worker for app 'broken' is not running")


def test_a_good_deploy_fails_no_call(platform, app):
    ended = threading.Event()
    answers = []

    def load():
        with platform.stack.client(platform.admin.headers["Authorization"][7:]) as client:
            while not ended.is_set():
                body = {"method": "version"}
                answers.append(answer(client.post(f"/apps/{app}/rpc", json=body)))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(load)
        try:
            for number in range(20):
                text = WORKER.replace("VERSION", f"v{number}")
                assert deploy(platform, app, worker__py=text).status_code == 200
            time.sleep(0.5)
        finally:
            ended.set()
    assert {code for code, _ in answers} == {200}
    assert {value for _, value in answers} >= {f"v{number}" for number in range(20)}


def test_migrations_are_applied_once_in_order_and_a_bad_one_changes_nothing(platform, app):
    one = "CREATE TABLE ledger (n int); INSERT INTO ledger VALUES (1)"
    files = {"worker__py": WORKER, "migrations/001_a__sql": one}
    files["migrations/002_b__sql"] = "INSERT INTO ledger VALUES (2)"
    first = deploy(platform, app, **files)
    assert first.json()["migrationsApplied"] == ["001_a.sql", "002_b.sql"], first.text
    assert deploy(platform, app, **files).json()["migrationsApplied"] == []
    files["worker__py"] = WORKER.replace("VERSION", "new")
    files["migrations/003_c__sql"] = "INSERT INTO nothing VALUES (3)"
    bad = error(deploy(platform, app, **files))
    assert bad == (400, """migration '003_c.sql': relation "nothing" does not exist""")
    assert platform.rpc(app, "version").json() == "VERSION"


def test_rolling_back(platform, app):
    first = deploy(platform, app, worker__py=WORKER.replace("VERSION", "first")).json()
    deploy(platform, app, worker__py=WORKER.replace("VERSION", "second"))
    assert platform.rpc(app, "version").json() == "second"
    path = f"/apps/{app}/deployments"
    kept = platform.admin.get(path).json()
    assert [row["current"] for row in kept] == [True, False, False]
    back = platform.admin.post(f"{path}/{first['deploymentId']}/activate")
    assert back.status_code == 200, back.text
    assert platform.rpc(app, "version").json() == "first"
    for number in range(3):
        deploy(platform, app, worker__py=WORKER.replace("VERSION", f"n{number}"))
    assert len(platform.admin.get(path).json()) == 3


def test_what_cannot_be_deployed_leaves_the_old_code_answering(platform, app):
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w:gz") as tar:
        info = tarfile.TarInfo("worker.py")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    given = platform.admin.post(f"/apps/{app}/deploy", files={"archive": link.getvalue()})
    assert error(given) == (400, "unsafe archive entry: worker.py")
    given = deploy(platform, app, worker__py=WORKER, requirements__txt="./missing")
    code, text = error(given)
    assert code == 500
    assert text.startswith("dependency install failed: ")
    assert "missing" in text
    assert answer(platform.rpc(app, "version")) == (200, "VERSION")
    assert len(platform.admin.get(f"/apps/{app}/deployments").json()) == 1
    given = deploy(platform, app, index__js="serve({ rpc: { version: () => 'js' } });")
    if given.status_code == 200:
        assert answer(platform.rpc(app, "version")) == (200, "js")
    else:
        assert error(given) == (500, "no JavaScript runtime available")


def test_two_deploys_at_once_both_succeed_in_turn(platform, app):
    with ThreadPoolExecutor(2) as pool:
        token = platform.admin.headers["Authorization"][7:]

        def one(name):
            with platform.stack.client(token) as client:
                files = {"archive": archive(worker__py=WORKER.replace("VERSION", name))}
                return client.post(f"/apps/{app}/deploy", files=files).status_code

        assert list(pool.map(one, ["a", "b"])) == [200, 200]
    assert platform.rpc(app, "version").json() in {"a", "b"}
    current = [
        row for row in platform.admin.get(f"/apps/{app}/deployments").json() if row["current"]
    ]
    assert len(current) == 1


def test_secrets_arrive_at_the_next_start_and_platform_secrets_restart(platform, app):
    secret = {"key": "SMTP", "value": "app"}
    assert platform.admin.post(f"/apps/{app}/secrets", json=secret).status_code == 200
    assert platform.rpc(app, "secrets").json().get("SMTP") is None
    pid = platform.rpc(app, "pid").json()
    given = platform.admin.post("/platform/secrets", json={"key": "SMTP", "value": "platform"})
    assert given.json()["workers_restarted"] >= 1
    wait_until(lambda: platform.rpc(app, "pid").json() != pid, what="the restart")
    assert platform.rpc(app, "secrets").json()["SMTP"] == "app"
    other = {"key": "ONLY_PLATFORM", "value": "p"}
    platform.admin.post("/platform/secrets", json=other)
    wait_until(
        lambda: platform.rpc(app, "secrets").json().get("ONLY_PLATFORM") == "p", what="the secret"
    )


def test_a_secret_that_is_used_printed_and_raised_stays_with_the_app(platform, app):
    canary = "canary-" + secrets.token_hex(12)
    for path in (f"/apps/{app}/secrets", "/platform/secrets"):
        body = {"key": f"CANARY_{path[1]}", "value": canary}
        assert platform.admin.post(path, json=body).status_code == 200
    worker = """
from trellis_worker import serve
def use(params, caller, ctx):
    print("mine:", ctx.secrets["CANARY_a"])
    return len(ctx.secrets["CANARY_p"])
def leak(params, caller, ctx):
    raise ValueError(ctx.secrets["CANARY_a"])
serve(rpc={"use": use, "leak": leak})
"""
    with redis.Redis.from_url(platform.stack.env["REDIS_URL"]) as broker:
        monitored = []
        with broker.monitor() as monitor:
            listening = threading.Thread(target=_listen, args=(monitor, monitored, "end-of-test"))
            listening.start()
            assert deploy(platform, app, worker__py=worker).status_code == 200
            assert answer(platform.rpc(app, "use")) == (200, len(canary))
            # Its own error text is the author's answer to the caller, who gets it and nobody else.
            assert error(platform.rpc(app, "leak")) == (500, canary)
            assert platform.admin.get(f"/apps/{app}/secrets").text == '["CANARY_a"]\n'
            broker.get("end-of-test")
            listening.join(20)
    where = {line.split()[0] + " " + line.split()[1] for line in monitored if canary in line}
    # What the app itself printed, and the one answer that carries its error.
    assert all(f"logs:{app}" in place or " replies:" in place for place in where), where
    for name in platform.stack.processes:
        assert canary not in platform.stack.log(name)
    with psycopg2.connect(platform.database_url.replace("+psycopg2", "")) as connection:
        assert _tables_with(connection, canary) == []


def _listen(monitor, lines, last):
    for entry in monitor.listen():
        lines.append(entry["command"])
        if last in entry["command"]:
            return


def _tables_with(connection, text):
    """Return the tables that hold a text, plain or in the hex form of bytes."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(
                f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s OR t::text LIKE %s",
                (f"%{text}%", f"%{text.encode().hex()}%"),
            )
            found += [table] if cursor.fetchone()[0] else []
    return found


def test_the_log_has_every_kind_of_line(platform, app):
    token = platform.admin.headers["Authorization"]
    url = f"{platform.stack.url}/api/v1/apps/{app}/logs"
    lines = []
    with httpx.stream("GET", url, headers={"Authorization": token}, timeout=20) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        reader = stream.iter_lines()
        next(reader)
        platform.rpc(app, "speak", 17)
        for line in reader:
            if line.startswith("data: "):
                entry = json.loads(line[6:])
                lines.append((entry["level"], entry["message"]))
                assert entry["process"].rpartition("/")[2].isdigit()
            if len(lines) == 5:
                break
    assert set(lines) == {
        ("info", "order 17 stored"),
        ("info", "printed"),
        ("stderr", "to stderr"),
        # The SDK keeps the protocol's pipe to itself; descriptor 1 is the log.
        ("stderr", "raw line"),
        ("event", 'stored: {"id":17}'),
    }


def test_uninstalling_stops_the_process_and_forgets_the_log(platform):
    platform.install("gone", WORKER, dataContract=CONTRACT)
    assert platform.rpc("gone", "pid").status_code == 200
    assert platform.admin.delete("/apps/gone").status_code == 200
    assert error(platform.rpc("gone", "pid")) == (404, "no app 'gone'")
    platform.install("gone")
    assert status(platform, "gone")["status"] == "stopped"
    assert platform.admin.get("/apps/gone/deployments").json() == []


SLOTH = """
import time
from trellis_worker import serve

def integration(params):
    time.sleep(params["input"]["seconds"])
    return "up"

serve(rpc={"__integration": integration})
"""


@pytest.mark.slow
def test_a_handler_that_takes_too_long_does_not_hurt_the_worker(start_platform):
    platform = start_platform("web", "worker", RPC_TIMEOUT="2")
    platform.install("lazy", WORKER, dataContract=CONTRACT)
    started = time.monotonic()
    text = "rpc timeout: no answer within 2 s"
    assert error(platform.rpc("lazy", "sleep", 6)) == (500, text)
    assert time.monotonic() - started < 3
    assert answer(platform.rpc("lazy", "echo", 1)) == (200, 1)
    assert status(platform, "lazy")["status"] == "running"

    platform.install("sloth", SLOTH, type="integration", actions=[{"id": "climb", "name": "Climb"}])
    action = "/integrations/sloth/actions/climb"
    late = platform.admin.post(action, json={"seconds": 6})
    assert error(late) == (500, "action timed out")
    assert answer(platform.admin.post(action, json={"seconds": 0})) == (200, "up")
