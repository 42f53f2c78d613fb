import re
import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from tests.support.api import error

CRONS = "/apps/crm/crons"


@pytest.fixture
def app(admin):
    assert admin.post("/apps", {"appId": "crm", "name": "CRM"}).status_code == 200
    return admin


def person(admin, client, email, *keys):
    """Sign somebody up with permissions."""
    somebody = client.sign_up(email)
    role = f"role_{somebody.user_id[:8]}"
    assert admin.post("/roles", {"name": role, "permissions": list(keys)}).status_code < 300
    admin.post("/roles/assign", {"userId": somebody.user_id, "role": role})
    return somebody


def create(client, name="nightly", **body):
    answer = client.post(CRONS, {"name": name, "schedule": "0 9 * * *", **body})
    assert answer.status_code == 201, answer.json
    return answer.json


def run_sql(platform, statement, **values):
    with platform.uow() as uow:
        result = uow.session.execute(text(statement), values)
        return result.all() if result.returns_rows else None


def test_create_shows_the_whole_object(app):
    body = {
        "name": "daily-check",
        "schedule": "0 9 * * *",
        "timezone": "America/New_York",
        "payload": {"task": "check_replies"},
        "overlapPolicy": "skip",
    }
    answer = app.post(CRONS, body)
    assert answer.status_code == 201
    cron = answer.json
    assert set(cron) == {
        "id",
        "appId",
        "name",
        "schedule",
        "timezone",
        "payload",
        "overlapPolicy",
        "enabled",
        "pgJobId",
        "createdBy",
        "createdAt",
        "updatedAt",
    }
    assert {k: cron[k] for k in body} == body
    assert (cron["appId"], cron["enabled"], cron["createdBy"]) == ("crm", True, app.user_id)
    assert isinstance(cron["pgJobId"], int)
    assert cron["createdAt"].endswith("Z")
    assert app.get(CRONS).json == [cron]


def test_defaults(app):
    cron = create(app)
    assert (cron["timezone"], cron["payload"], cron["overlapPolicy"]) == (None, {}, "skip")
    disabled = create(app, "off", enabled=False)
    assert (disabled["enabled"], disabled["pgJobId"]) == (False, None)


def test_lists_are_by_name(app):
    for name in ("b", "a", "C"):
        create(app, name)
    assert [c["name"] for c in app.get(CRONS).json] == sorted(["b", "a", "C"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"schedule": "* * * * *"}, "field 'name' is required"),
        ({"name": "x"}, "field 'schedule' is required"),
        ({"name": 5, "schedule": "* * * * *"}, "field 'name' must be a string"),
        ({"name": "a b", "schedule": "* * * * *"}, "invalid cron name: 'a b'"),
        ({"name": "", "schedule": "* * * * *"}, "invalid cron name: ''"),
        ({"name": "x" * 65, "schedule": "* * * * *"}, f"invalid cron name: '{'x' * 65}'"),
        (
            {"name": "x", "schedule": "@daily"},
            "invalid schedule '@daily': expected five fields (minute hour day month weekday) or 'N seconds'",
        ),
        (
            {"name": "x", "schedule": "60 seconds"},
            "invalid schedule '60 seconds': seconds must be 1-59",
        ),
        (
            {"name": "x", "schedule": "5/10 * * * *"},
            "invalid schedule '5/10 * * * *': minute: step without range in '5/10'",
        ),
        (
            {"name": "x", "schedule": "* * * * *", "timezone": "Mars/Base"},
            "unknown timezone 'Mars/Base'",
        ),
        ({"name": "x", "schedule": "* * * * *", "timezone": "+02:00"}, "unknown timezone '+02:00'"),
        (
            {"name": "x", "schedule": "* * * * *", "timezone": 5},
            "field 'timezone' must be a string",
        ),
        (
            {"name": "x", "schedule": "* * * * *", "overlapPolicy": "wait"},
            "overlapPolicy must be 'skip' or 'queue'",
        ),
        (
            {"name": "x", "schedule": "* * * * *", "overlapPolicy": 1},
            "overlapPolicy must be 'skip' or 'queue'",
        ),
        (
            {"name": "x", "schedule": "* * * * *", "enabled": "yes"},
            "field 'enabled' must be a boolean",
        ),
        ({"name": "x", "schedule": "* * * * *", "payload": "p" * 262_143}, "payload too large"),
        ({"name": "x", "schedule": "* * * * *", "runAs": "me"}, "invalid runAs"),
    ],
)
def test_field_rules(app, body, message):
    assert error(app.post(CRONS, body)) == (400, message)
    assert app.get(CRONS).json == []


def test_names_are_unique_per_app(app):
    create(app)
    taken = (400, "cron 'nightly' already exists in app 'crm'")
    assert error(app.post(CRONS, {"name": "nightly", "schedule": "* * * * *"})) == taken
    other = create(app, "other")
    assert error(app.patch(f"{CRONS}/{other['id']}", {"name": "nightly"})) == taken
    assert app.get(CRONS).json[1]["name"] == "other"
    app.post("/apps", {"appId": "hr", "name": "HR"})
    assert (
        app.post("/apps/hr/crons", {"name": "nightly", "schedule": "* * * * *"}).status_code == 201
    )


def test_patch_changes_what_is_given(app):
    cron = create(app, timezone="Europe/Berlin")
    path = f"{CRONS}/{cron['id']}"
    same = app.patch(path, {})
    assert same.status_code == 200
    assert same.json["updatedAt"] > cron["updatedAt"]
    assert {**same.json, "updatedAt": None} == {**cron, "updatedAt": None}
    assert app.patch(path, {"timezone": None}).json["timezone"] is None
    assert app.patch(path, {"payload": [1]}).json["payload"] == [1]
    renamed = app.patch(
        path, {"name": "new", "schedule": "10 seconds", "overlapPolicy": "queue"}
    ).json
    assert (renamed["name"], renamed["schedule"], renamed["overlapPolicy"]) == (
        "new",
        "10 seconds",
        "queue",
    )
    ignored = {
        "id": str(uuid.uuid4()),
        "createdBy": None,
        "appId": "hr",
        "pgJobId": 99,
        "runAs": "x",
        "createdAt": "x",
    }
    assert app.patch(path, ignored).json["id"] == cron["id"]
    assert error(app.patch(path, {"schedule": "bad"}))[1].startswith("invalid schedule 'bad': ")


def test_disable_and_enable(app):
    cron = create(app)
    path = f"{CRONS}/{cron['id']}"
    off = app.patch(path, {"enabled": False}).json
    assert (off["enabled"], off["pgJobId"]) == (False, None)
    assert app.patch(path, {"schedule": "* * * * *"}).json["pgJobId"] is None
    on = app.patch(path, {"enabled": True}).json
    assert on["pgJobId"] > cron["pgJobId"]


def test_delete(app):
    cron = create(app)
    path = f"{CRONS}/{cron['id']}"
    msg_id = app.post(f"{path}/trigger").json["msgId"]
    assert app.delete(path).json == {"message": "cron deleted"}
    assert error(app.delete(path)) == (404, f"cron '{cron['id']}' not found")
    assert [j["msg_id"] for j in app.get("/apps/crm/jobs").json] == [msg_id]


def test_unknown_ids(app):
    app.post("/apps", {"appId": "hr", "name": "HR"})
    foreign = create(app)["id"]
    some = str(uuid.uuid4())
    for path, cron_id in ((f"{CRONS}/{some}", some), (f"/apps/hr/crons/{foreign}", foreign)):
        for answer in (
            app.patch(path, {}),
            app.delete(path),
            app.post(f"{path}/trigger"),
            app.get(f"{path}/runs"),
            app.get(f"{path}/next"),
        ):
            assert error(answer) == (404, f"cron '{cron_id}' not found")
    for answer in (
        app.patch(f"{CRONS}/7", {}),
        app.delete(f"{CRONS}/7"),
        app.post(f"{CRONS}/7/trigger"),
    ):
        assert error(answer) == (400, "not a valid UUID: '7'")
    assert error(app.get("/apps/nope/crons")) == (404, "no app 'nope'")
    assert error(app.post("/apps/nope/crons", {"name": "x", "schedule": "* * * * *"})) == (
        404,
        "no app 'nope'",
    )


def test_trigger_queues_whatever_the_policy_and_records_a_run(app):
    cron = create(app, payload={"task": "x", "cron_id": "forged"}, enabled=False)
    path = f"{CRONS}/{cron['id']}"
    first, second = (app.post(f"{path}/trigger").json["msgId"] for _ in range(2))
    jobs = {j["msg_id"]: j for j in app.get("/apps/crm/jobs").json}
    assert jobs[first]["payload"] == {"task": "x", "cron_id": cron["id"]}
    assert jobs[first]["user_id"] == app.user_id
    runs = app.get(f"{path}/runs").json
    assert [r["msgId"] for r in runs] == [second, first]
    run = runs[0]
    assert set(run) == {
        "runid",
        "jobPid",
        "status",
        "returnMessage",
        "startTime",
        "endTime",
        "scheduledFor",
        "msgId",
    }
    assert (run["jobPid"], run["status"], run["scheduledFor"]) == (None, "succeeded", None)
    assert run["returnMessage"] == f"manual, enqueued msg {second}"
    assert run["endTime"].endswith("Z")
    assert len(app.get(f"{path}/runs?limit=1").json) == 1
    for limit in ("0", "x"):
        assert error(app.get(f"{path}/runs?limit={limit}")) == (400, "invalid limit")


def test_a_payload_that_is_no_object_stays_as_it_is(app):
    cron = create(app, payload=[1, 2])
    app.post(f"{CRONS}/{cron['id']}/trigger")
    assert app.get("/apps/crm/jobs").json[0]["payload"] == [1, 2]


def test_permissions_and_ownership(app, client, platform):
    writer = person(
        app,
        client,
        "w@example.com",
        "app:crm:cron.write",
        "app:crm:cron.read",
        "app:crm:cron.trigger",
    )
    reader = person(app, client, "r@example.com", "app:crm:cron.read")
    manager = person(
        app,
        client,
        "m@example.com",
        "app:crm:cron.*",
        "app:crm:cron.read",
        "app:crm:cron.write",
        "app:crm:cron.trigger",
        "app:crm:cron.manage_others",
    )
    nobody = client.sign_up("n@example.com")
    theirs, mine = create(app, "admins"), create(writer, "writers")
    paths = {c["name"]: f"{CRONS}/{c['id']}" for c in (theirs, mine)}

    assert error(nobody.post(CRONS, {})) == (403, "missing permission: app:crm:cron.write")
    assert error(nobody.get(CRONS)) == (403, "missing permission: app:crm:cron.read")
    assert error(reader.patch(paths["admins"], {})) == (
        403,
        "missing permission: app:crm:cron.write",
    )
    assert error(reader.delete(paths["admins"])) == (403, "missing permission: app:crm:cron.write")
    assert error(reader.post(f"{paths['admins']}/trigger")) == (
        403,
        "missing permission: app:crm:cron.trigger",
    )

    assert [c["name"] for c in writer.get(CRONS).json] == ["writers"]
    assert reader.get(CRONS).json == []
    assert len(manager.get(CRONS).json) == 2
    foreign = (403, "not the owner of this cron")
    for answer in (
        writer.patch(paths["admins"], {}),
        writer.delete(paths["admins"]),
        writer.post(f"{paths['admins']}/trigger"),
        writer.get(f"{paths['admins']}/runs"),
    ):
        assert error(answer) == foreign
    assert writer.patch(paths["writers"], {}).status_code == 200
    assert manager.patch(paths["writers"], {"enabled": False}).json["createdBy"] == writer.user_id

    run_sql(platform, "UPDATE trellis.cron_schedules SET created_by = NULL WHERE name = 'writers'")
    assert error(writer.patch(paths["writers"], {})) == foreign
    assert error(manager.post(f"{paths['writers']}/trigger")) == (400, "cron has no enabled owner")
    assert manager.delete(paths["writers"]).status_code == 200


def test_run_as_somebody_else_is_refused(app, client):
    ben = client.sign_up("ben@example.com")
    body = {"name": "x", "schedule": "* * * * *", "runAs": ben.user_id}
    assert error(app.post(CRONS, body)) == (403, "not allowed to act as this principal")
    assert create(app, "own", runAs=app.user_id)["createdBy"] == app.user_id


def test_all_crons_over_apps(app, client):
    app.post("/apps", {"appId": "hr", "name": "HR"})
    create(app, "b")
    create(app, "a")
    app.post("/apps/hr/crons", {"name": "z", "schedule": "* * * * *"})
    assert [(c["appId"], c["name"]) for c in app.get("/crons").json] == [
        ("crm", "a"),
        ("crm", "b"),
        ("hr", "z"),
    ]
    writer = person(app, client, "w@example.com", "app:crm:cron.write", "app:crm:cron.read")
    assert writer.get("/crons").json == []
    create(writer, "mine")
    assert [c["name"] for c in writer.get("/crons").json] == ["mine"]
    assert error(client.get("/crons"))[0] == 401


def test_next_times(app):
    cron = create(app, schedule="0 9 * * *", timezone="Europe/Berlin")
    times = app.get(f"{CRONS}/{cron['id']}/next?count=3").json
    moments = [datetime.fromisoformat(t) for t in times]
    assert len(moments) == 3
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT0[78]:00:00Z", t) for t in times)
    assert moments == sorted(moments)
    assert moments[0] > datetime.now(UTC)
    assert len(app.get(f"{CRONS}/{cron['id']}/next").json) == 5
    never = create(app, "never", schedule="0 0 31 2 *")
    assert app.get(f"{CRONS}/{never['id']}/next").json == []
    often = create(app, "often", schedule="10 seconds")
    times = [datetime.fromisoformat(t) for t in app.get(f"{CRONS}/{often['id']}/next?count=2").json]
    assert (times[1] - times[0]).total_seconds() == 10
    assert error(app.get(f"{CRONS}/{cron['id']}/next?count=0")) == (400, "invalid count")


# --- manifest --------------------------------------------------------------------------------


def install(client, *crons):
    body = {"appId": "crm", "name": "CRM"}
    return client.post("/apps", body if crons == (None,) else {**body, "crons": list(crons)})


def test_manifest_sync(app):
    api_made = create(app, "api")
    entry = {"name": "man", "schedule": "0 9 * * *", "method": "report", "payload": {"a": 1}}
    assert install(app, entry, {"name": "gone", "schedule": "5 seconds"}).status_code == 200
    crons = {c["name"]: c for c in app.get(CRONS).json}
    assert set(crons) == {"api", "man", "gone"}
    assert crons["man"]["payload"] == {"a": 1, "method": "report"}
    assert (crons["man"]["createdBy"], crons["man"]["overlapPolicy"]) == (app.user_id, "skip")

    app.patch(f"{CRONS}/{crons['man']['id']}", {"enabled": False, "payload": {"b": 2}})
    changed = {
        "name": "man",
        "schedule": "1 1 * * *",
        "timezone": "Asia/Tokyo",
        "overlapPolicy": "queue",
    }
    assert install(app, changed).status_code == 200
    after = {c["name"]: c for c in app.get(CRONS).json}
    assert set(after) == {"api", "man"}
    man = after["man"]
    assert (
        man["id"],
        man["enabled"],
        man["schedule"],
        man["timezone"],
        man["payload"],
        man["overlapPolicy"],
    ) == (
        crons["man"]["id"],
        True,
        "1 1 * * *",
        "Asia/Tokyo",
        {},
        "queue",
    )
    assert man["pgJobId"] is not None
    assert after["api"] == api_made

    assert install(app, None).status_code == 200
    assert [c["name"] for c in app.get(CRONS).json] == ["api"]


def test_the_same_manifest_again_keeps_the_schedule_going(app):
    entry = {"name": "man", "schedule": "0 9 * * *"}
    install(app, entry)
    before = app.get(CRONS).json[0]
    install(app, entry)
    after = app.get(CRONS).json[0]
    assert after["pgJobId"] == before["pgJobId"]


def test_a_manifest_takes_over_an_api_made_cron(app):
    cron = create(app, "shared")
    install(app, {"name": "shared", "schedule": "7 7 * * *"})
    taken = app.get(CRONS).json[0]
    assert (taken["id"], taken["schedule"]) == (cron["id"], "7 7 * * *")
    install(app)
    assert app.get(CRONS).json == []


def test_reinstalling_by_somebody_else_keeps_the_owner(app, client):
    install(app, {"name": "man", "schedule": "0 9 * * *"})
    installer = person(app, client, "i@example.com", "admin:apps.install")
    assert (
        install(
            installer,
            {"name": "man", "schedule": "1 9 * * *"},
            {"name": "new", "schedule": "2 9 * * *"},
        ).status_code
        == 200
    )
    owners = {c["name"]: c["createdBy"] for c in app.get(CRONS).json}
    assert owners == {"man": app.user_id, "new": installer.user_id}


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x", "schedule": "@daily"},
        {"name": "x y", "schedule": "* * * * *"},
        {"name": "x", "schedule": "* * * * *", "timezone": "Mars"},
        {"name": "x", "schedule": "* * * * *", "method": "m", "payload": [1]},
        {"name": "x", "schedule": "* * * * *", "overlapPolicy": "no"},
    ],
)
def test_an_invalid_entry_fails_the_install_and_changes_nothing(app, entry):
    install(app, {"name": "good", "schedule": "0 9 * * *"})
    before = app.get(CRONS).json
    status, message = error(install(app, {"name": "other", "schedule": "0 9 * * *"}, entry))
    assert status == 400
    assert message.startswith(f"cron '{entry['name']}': ")
    assert app.get(CRONS).json == before


def test_duplicate_names_fail_the_install(app):
    entry = {"name": "x", "schedule": "0 9 * * *"}
    assert error(install(app, entry, entry)) == (400, "duplicate cron 'x'")


def test_uninstall_deletes_crons_and_runs(app, platform):
    cron = create(app)
    app.post(f"{CRONS}/{cron['id']}/trigger")
    assert app.delete("/apps/crm").status_code == 200
    assert run_sql(platform, "SELECT count(*) FROM trellis.cron_schedules") == [(0,)]
    assert run_sql(platform, "SELECT count(*) FROM trellis.cron_runs") == [(0,)]


def test_a_deleted_owner_leaves_the_cron_without_one(app, client):
    writer = person(app, client, "w@example.com", "app:crm:cron.write", "app:crm:cron.read")
    create(writer, "orphan")
    assert app.delete(f"/users/{writer.user_id}").status_code == 200
    assert app.get(CRONS).json[0]["createdBy"] is None
