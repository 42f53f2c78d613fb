"""Installing, listing and removing apps over HTTP."""

import copy

import pytest
from sqlalchemy import text

from tests.support.api import error

MANIFEST = {
    "appId": "crm",
    "name": "CRM",
    "dataContract": [
        {
            "entityName": "contacts",
            "fields": [
                {"name": "email", "type": "text", "required": True},
                {"name": "age", "type": "text"},
                {"name": "nick", "type": "text"},
            ],
        }
    ],
}
CONTACTS = "/apps/crm/collections/contacts"


def manifest(**changes):
    return {**copy.deepcopy(MANIFEST), **changes}


def with_fields(*fields, **entity):
    return manifest(dataContract=[{"entityName": "contacts", "fields": list(fields), **entity}])


def test_install_twice_gives_one_app(admin):
    for _ in range(2):
        answer = admin.post("/apps", MANIFEST)
        assert (answer.status_code, answer.json) == (200, {"message": "app 'crm' installed"})
    assert admin.get("/apps").json == [
        {
            "id": "crm",
            "name": "CRM",
            "version": "0.0.1",
            "status": "installed",
            "type": "app",
            "entities": ["contacts"],
            "hasFrontend": False,
        }
    ]


def test_the_list_is_by_name_and_filtered_by_type(admin):
    for app_id, name, kind in (
        ("b", "Zed", "app"),
        ("a", "Abe", "integration"),
        ("c", "Abe", "agent"),
    ):
        assert admin.post("/apps", {"appId": app_id, "name": name, "type": kind}).status_code == 200
    assert [app["id"] for app in admin.get("/apps").json] == ["a", "c", "b"]
    assert [app["id"] for app in admin.get("/apps?type=agent").json] == ["c"]
    assert [app["id"] for app in admin.get("/apps?type=what").json] == ["a", "c", "b"]


def test_detail(admin):
    admin.post("/apps", MANIFEST)
    found = admin.get("/apps/crm").json
    assert found["icon"] is None
    assert found["dataContract"] == [
        {
            "entityName": "contacts",
            "fields": [
                {"name": "email", "type": "text", "required": True},
                {"name": "age", "type": "text", "required": False},
                {"name": "nick", "type": "text", "required": False},
            ],
        }
    ]
    assert error(admin.get("/apps/core")) == (404, "no app 'core'")
    assert error(admin.get("/apps/nope")) == (404, "no app 'nope'")


def test_who_may_install(admin):
    admin.post("/roles", {"name": "maker", "permissions": ["platform:apps.create"]})
    maker = admin.sign_up("maker@example.com")
    other = admin.sign_up("other@example.com")
    refused = (403, "missing permission: admin:apps.install")
    assert error(maker.post("/apps", MANIFEST)) == refused
    admin.post("/roles/assign", {"userId": maker.user_id, "role": "maker"})
    assert maker.post("/apps", MANIFEST).status_code == 200
    assert maker.post("/apps", manifest(version="2")).status_code == 200
    assert maker.post(CONTACTS, {"email": "a"}).status_code == 201
    assert error(other.post("/apps", MANIFEST)) == refused
    admin.post("/apps", {"appId": "billing", "name": "Billing"})
    assert error(maker.post("/apps", {"appId": "billing", "name": "x"})) == refused
    assert error(maker.delete("/apps/crm")) == refused
    assert admin.get("/permissions/" + maker.user_id).json["roles"] == ["app:crm:admin", "maker"]
    # Somebody else's app can be neither read nor replaced, not even the one that was one's own.
    admin.post("/roles/assign", {"userId": other.user_id, "role": "maker"})
    assert error(other.get(CONTACTS)) == (403, "missing permission: app:crm:contacts.read")
    assert error(other.post("/apps", MANIFEST)) == refused
    assert admin.delete("/apps/crm").status_code == 200
    assert other.post("/apps", MANIFEST).status_code == 200
    assert other.get(CONTACTS).json == []
    assert error(maker.get(CONTACTS)) == (403, "missing permission: app:crm:contacts.read")
    assert error(maker.post("/apps", MANIFEST)) == refused
    assert admin.get("/permissions/" + maker.user_id).json["roles"] == ["maker"]


def test_the_first_installer_becomes_administrator(client, platform):
    first = client.sign_up("first@example.com")
    second = client.sign_up("second@example.com")
    with platform.engine.begin() as connection:
        connection.execute(text("DELETE FROM trellis.rbac_assignments"))
    assert second.post("/apps", MANIFEST).status_code == 200
    assert "*" in second.get("/permissions").json["permissions"]
    assert first.post("/apps", MANIFEST).status_code == 403


def test_keys_of_the_app_are_registered_and_replaced(admin):
    admin.post(
        "/apps",
        manifest(
            type="integration",
            permissions={
                "permissions": [{"key": "export", "description": "Export"}, {"key": "invoke"}]
            },
            actions=[{"id": "sync", "name": "Sync now"}],
        ),
    )
    keys = {k["key"]: k["description"] for k in admin.get("/permissions/available").json}
    crud = {f"app:crm:contacts.{action}" for action in ("create", "read", "update", "delete")}
    always = {
        f"app:crm:{key}"
        for key in (
            *("cron.read", "cron.write", "cron.trigger", "cron.manage_others"),
            *("hook.read", "hook.write", "logs.read", "webhook.read", "invoke"),
        )
    }
    mine = {
        "app:crm:export",
        "app:crm:action:sync",
        "integration:crm:sync",
        "integration:crm:manage",
    }
    assert crud | always | mine <= set(keys)
    assert keys["app:crm:export"] == "Export"
    assert keys["app:crm:invoke"] == ""
    assert keys["app:crm:action:sync"] == "Sync now (crm)"
    admin.post("/apps", manifest(dataContract=[]))
    left = {k["key"] for k in admin.get("/permissions/available").json if ":crm:" in k["key"]}
    assert left == always


@pytest.mark.parametrize(
    ("body", "text_"),
    [
        ([], "manifest must be a JSON object"),
        ({}, "manifest: 'appId' is required"),
        ({"appId": 5}, "manifest: 'appId' must be a string"),
        ({"appId": "pg_x", "name": "x"}, "app id 'pg_x' is reserved"),
        ({"appId": "core", "name": "x"}, "app id 'core' is reserved"),
        (
            {"appId": "Crm", "name": "x"},
            "appId 'Crm' must be snake_case: a lowercase letter, then lowercase letters, digits"
            " or underscores (63 at most)",
        ),
        ({"appId": "crm"}, "manifest: 'name' is required"),
        (manifest(type="x"), "type must be 'app', 'integration' or 'agent'"),
        (manifest(dataContract={}), "manifest: 'dataContract' must be an array"),
        (manifest(dataContract=[1]), "manifest: 'dataContract[0]' must be an object"),
        (
            manifest(dataContract=[{"entityName": "a"}]),
            "manifest: 'dataContract[0].fields' is required",
        ),
        (manifest(dataContract=[{"entityName": "a", "fields": []}] * 2), "duplicate entity 'a'"),
        (with_fields({"name": "a"}), "manifest: 'dataContract[0].fields[0].type' is required"),
        (with_fields(*[{"name": "a", "type": "text"}] * 2), "duplicate field 'a'"),
        (
            manifest(permissions={"permissions": [{"key": "a,b"}]}),
            "'a,b': only a-z, 0-9, '_', ':', '.', '*' allowed",
        ),
        (manifest(actions=[{"id": "a", "name": "A"}] * 2), "duplicate action 'a'"),
        (
            with_fields({"name": "l", "type": "entity_link", "references": {"entity": "zz"}}),
            "field 'l' links to 'zz', which this manifest does not define",
        ),
        (
            with_fields(
                {"name": "l", "type": "entity_link", "references": {"entity": "core:apps"}}
            ),
            "field 'l' links to 'core:apps', which does not exist",
        ),
        (
            with_fields({"name": "l", "type": "entity_link", "references": {"entity": "b:c"}}),
            "field 'l' links to 'b:c': links into other apps are not supported",
        ),
        (
            with_fields(identityKind="person"),
            "entity 'contacts': identityKind and identityKey go together",
        ),
        (
            with_fields(identityKind="person", identityKey="zz"),
            "entity 'contacts': identityKey 'zz' is not one of its fields",
        ),
        (
            with_fields({"name": "a", "type": "number", "default_value": "x"}),
            "field 'a': default_value is not a valid number",
        ),
        (
            with_fields({"name": "a", "type": "text", "enum_values": [1]}),
            "field 'a': enum_values must be an array of strings",
        ),
        (
            with_fields({"name": "a", "type": "text", "enum_values": ["x"], "enumValues": ["y"]}),
            "field 'a': enumValues and enum_values differ",
        ),
        (
            with_fields({"name": "id", "type": "number"}),
            "field 'id': the type must be uuid or text",
        ),
        (
            with_fields({"name": "a", "type": "text", "is_primary_key": True}),
            "field 'a': only 'id' can be the primary key",
        ),
        (with_fields(checks=[{"expr": "1; drop"}]), "entity 'contacts': SQL fragment not allowed"),
        (
            with_fields(indexes=[{"columns": ["zz"]}]),
            "entity 'contacts': index column 'zz' is not a field",
        ),
        (
            manifest(trigger={"appId": "a", "entity": "b", "on": ["upsert"]}),
            "trigger: 'upsert' is not insert, update or delete",
        ),
        (
            manifest(crons=[{"name": "a", "schedule": "x"}]),
            "cron 'a': invalid schedule 'x': expected five fields (minute hour day month weekday)"
            " or 'N seconds'",
        ),
        (
            manifest(crons=[{"name": "a", "schedule": "* * * * *", "timezone": "Mars/X"}]),
            "cron 'a': unknown timezone 'Mars/X'",
        ),
        (
            manifest(public={"collections": [{"entity": "zz", "actions": []}]}),
            "public: unknown entity 'zz'",
        ),
    ],
)
def test_an_invalid_manifest_changes_nothing(shared_admin, body, text_):
    before = shared_admin.get("/apps").json
    assert error(shared_admin.post("/apps", body)) == (400, text_)
    assert shared_admin.get("/apps").json == before


def test_sql_that_postgres_refuses_is_400(admin):
    for entity, words in (
        (
            {"checks": [{"name": "c", "expr": "nope > 1"}]},
            "check 'c': column \"nope\" does not exist",
        ),
        ({"checks": [{"name": "c", "expr": "true) OR (1"}]}, "check 'c':"),
        (
            {"checks": [{"name": "c", "expr": "random() > 0"}]},
            "check 'c': functions in index predicate",
        ),
        (
            {"checks": [{"name": "c", "expr": "true), DROP COLUMN email, CHECK (true"}]},
            "check 'c': syntax",
        ),
        (
            {"indexes": [{"name": "i", "columns": [{"expr": "now()"}]}]},
            "index 'i': functions in index",
        ),
    ):
        body = with_fields({"name": "email", "type": "text"}, **entity)
        status, words_found = error(admin.post("/apps", body))
        assert status == 400
        assert words_found.startswith(f"entity 'contacts': {words}")
    assert admin.get("/apps").json == []


def test_an_update_keeps_rows_and_a_failing_one_keeps_the_version(admin):
    admin.post("/apps", MANIFEST)
    row = admin.post(CONTACTS, {"email": "a", "age": "42", "nick": "x"}).json
    changed = with_fields(
        {"name": "email", "type": "text", "required": True},
        {"name": "age", "type": "number"},
        {"name": "city", "type": "text", "default_value": "Ghent"},
    )
    assert admin.post("/apps", changed).status_code == 200
    now = admin.get(f"{CONTACTS}/{row['id']}").json
    assert now == {
        **{k: row[k] for k in ("id", "email", "created_at", "updated_at")},
        "age": 42,
        "city": "Ghent",
    }
    bad = with_fields({"name": "email", "type": "number"}, {"name": "new", "type": "text"})
    assert error(admin.post("/apps", bad)) == (
        409,
        "entity 'contacts': cannot convert field 'email' from text to double precision",
    )
    assert admin.get(f"{CONTACTS}/{row['id']}").json == now


@pytest.mark.parametrize(
    ("fields", "text_"),
    [
        (
            [{"name": "x", "type": "text", "required": True}],
            "entity 'contacts': cannot add required field 'x' without a default: table has rows",
        ),
        (
            [{"name": "nick", "type": "text", "required": True}],
            "entity 'contacts': field 'nick' has empty values",
        ),
        (
            [
                {"name": "nick", "type": "text"},
                {"name": "email", "type": "text", "enum_values": ["q"]},
            ],
            "entity 'contacts': check 'chk_contacts_email': existing rows do not satisfy it",
        ),
    ],
)
def test_rows_can_forbid_a_change(admin, fields, text_):
    admin.post("/apps", MANIFEST)
    admin.post(CONTACTS, {"email": "a"})
    before = admin.get(CONTACTS).json
    assert error(admin.post("/apps", with_fields(*fields))) == (409, text_)
    assert admin.get(CONTACTS).json == before


def test_duplicates_and_dangling_links_forbid_a_change(admin):
    admin.post(
        "/apps", with_fields({"name": "email", "type": "text"}, {"name": "peer", "type": "uuid"})
    )
    for _ in range(2):
        admin.post(CONTACTS, {"email": "a", "peer": "00000000-0000-0000-0000-000000000009"})
    unique = with_fields(
        {"name": "email", "type": "text"},
        indexes=[{"name": "u", "columns": ["email"], "unique": True}],
    )
    assert error(admin.post("/apps", unique)) == (
        409,
        "entity 'contacts': index 'u': duplicate values present",
    )
    link = with_fields(
        {"name": "peer", "type": "entity_link", "references": {"entity": "contacts"}}
    )
    assert error(admin.post("/apps", link)) == (
        409,
        "entity 'contacts': field 'peer' points to missing records",
    )


def test_turning_required_on_fills_the_default_and_nothing_else(admin):
    admin.post("/apps", MANIFEST)
    row = admin.post(CONTACTS, {"email": "a"}).json
    changed = with_fields(
        {"name": "email", "type": "text", "required": True},
        {"name": "nick", "type": "text", "required": True, "default_value": "it's"},
    )
    assert admin.post("/apps", changed).status_code == 200
    now = admin.get(CONTACTS).json[0]
    assert now["nick"] == "it's"
    assert now["updated_at"] == row["updated_at"]


def test_unique_index_comes_and_goes(admin, platform):
    unique = {"columns": ["email"], "unique": True}
    admin.post("/apps", with_fields({"name": "email", "type": "text"}, indexes=[unique]))
    assert admin.post(CONTACTS, {"email": "a"}).status_code == 201
    assert error(admin.post(CONTACTS, {"email": "a"})) == (409, "duplicate value for email")
    with platform.engine.begin() as connection:
        connection.execute(text("CREATE INDEX by_hand ON crm.contacts (email)"))
        connection.execute(text("ALTER TABLE crm.contacts ADD CONSTRAINT c CHECK (email <> 'z')"))
    admin.post("/apps", with_fields({"name": "email", "type": "text"}))
    assert admin.post(CONTACTS, {"email": "a"}).status_code == 201
    assert admin.post(CONTACTS, {"email": "z"}).status_code == 400
    with platform.engine.connect() as connection:
        query = "SELECT indexname FROM pg_indexes WHERE schemaname = 'crm' ORDER BY 1"
        left = connection.scalars(text(query)).all()
    assert left == ["by_hand", "contacts_pkey", "ix_created_contacts"]


@pytest.mark.parametrize("required", [False, True])
def test_delete_rules_follow_the_manifest(admin, required):
    def link(rule):
        fields = [
            {"name": "email", "type": "text"},
            {
                "name": "boss",
                "type": "entity_link",
                "references": {"entity": "contacts"},
                "onDelete": rule,
            },
        ]
        return with_fields(*fields)

    admin.post("/apps", link("restrict"))
    boss = admin.post(CONTACTS, {"email": "boss"}).json["id"]
    admin.post(CONTACTS, {"email": "x", "boss": boss})
    assert error(admin.delete(f"{CONTACTS}/{boss}")) == (409, "record is referenced by 'contacts'")
    assert len(admin.get(CONTACTS).json) == 2
    admin.post("/apps", link("cascade"))
    assert admin.delete(f"{CONTACTS}/{boss}").status_code == 200
    assert admin.get(CONTACTS).json == []


def test_removed_entities_are_out_of_reach_and_come_back(admin):
    admin.post("/apps", MANIFEST)
    row = admin.post(CONTACTS, {"email": "a"}).json
    admin.post("/apps", manifest(dataContract=[]))
    assert error(admin.get(CONTACTS)) == (404, "no entity 'contacts' in app 'crm'")
    admin.post("/apps", MANIFEST)
    assert admin.get(CONTACTS).json == [row]


def test_uninstall(admin):
    admin.post("/apps", MANIFEST)
    admin.post(CONTACTS, {"email": "a"})
    for _ in range(2):
        answer = admin.delete("/apps/crm")
        assert (answer.status_code, answer.json) == (200, {"message": "app 'crm' uninstalled"})
    assert error(admin.get(CONTACTS)) == (404, "no entity 'contacts' in app 'crm'")
    assert admin.get("/apps").json == []
    assert not [k for k in admin.get("/permissions/available").json if ":crm:" in k["key"]]
    assert admin.delete("/apps/What Ever").status_code == 200
    assert error(admin.delete("/apps/pg_catalog")) == (400, "app id 'pg_catalog' is reserved")
    admin.post("/apps", MANIFEST)
    assert admin.get(CONTACTS).json == []


def test_a_schema_that_no_app_made_is_left_alone(admin, platform):
    with platform.engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA crm"))
        connection.execute(text("CREATE TABLE crm.precious (id int)"))
    assert error(admin.post("/apps", MANIFEST)) == (
        409,
        "schema 'crm' exists and does not belong to an app",
    )
    assert admin.delete("/apps/crm").status_code == 200
    with platform.engine.begin() as connection:
        assert connection.scalar(text("SELECT to_regclass('crm.precious')")) is not None


def test_a_new_version_acts_on_the_next_request_of_another_process(admin, settings):
    from app.bootstrap import bootstrap
    from app.core.messaging import CeleryPublisher, make_celery
    from app.factory import create_app
    from tests.support.api import ApiClient

    admin.post("/apps", MANIFEST)
    celery = make_celery(settings)
    other = bootstrap(settings, CeleryPublisher(celery), process="web")
    second = ApiClient(create_app(other).test_client(), admin.token)
    assert second.get(CONTACTS).json == []
    admin.post("/apps", with_fields({"name": "city", "type": "text"}))
    assert second.post(CONTACTS, {"city": "Ghent"}).status_code == 201
    assert error(second.post(CONTACTS, {"email": "a"})) == (400, "unknown field 'email'")
    other.engine.dispose()
    other.redis.close()
    celery.close()


def test_verify_reports_what_install_does(admin):
    def changes(body):
        answer = admin.post("/apps/schema/verify", body)
        assert answer.status_code == 200, answer.json
        assert answer.json["compliant"] == (not answer.json["changes"])
        return [tuple(change.values()) for change in answer.json["changes"]]

    assert changes(MANIFEST) == [("contacts", "create_table", "", "3 fields")]
    admin.post("/apps", MANIFEST)
    assert changes(MANIFEST) == []
    changed = with_fields(
        {"name": "email", "type": "text"},
        {"name": "age", "type": "number", "default_value": 5},
        {"name": "peer", "type": "entity_link", "references": {"entity": "contacts"}},
        indexes=[{"name": "i", "columns": ["age"]}],
        checks=[{"name": "c", "expr": "age > 0"}],
        identityKind="person",
        identityKey="email",
    )
    assert changes(changed) == [
        ("contacts", "drop_not_null", "email", None),
        ("contacts", "alter_type", "age", "TEXT → DOUBLE PRECISION"),
        ("contacts", "set_default", "age", "5"),
        ("contacts", "add_column", "peer", "UUID"),
        ("contacts", "drop_column", "nick", None),
        ("contacts", "add_fk", "peer", "contacts"),
        ("contacts", "add_identity_index", "email", "person"),
        ("contacts", "add_index", "i", None),
        ("contacts", "add_check", "c", None),
    ]
    assert changes(MANIFEST) == []
    admin.post("/apps", changed)
    assert changes(changed) == []
    assert changes(manifest(dataContract=[])) == [("contacts", "drop_table", "", None)]
    assert error(admin.post("/apps/schema/verify", {})) == (400, "manifest: 'appId' is required")
