"""Every rule of a manifest with its text, and the form that is stored.

Source: REST contract part 20, sections 3.2 to 3.12.
"""

import pytest

from app.apps import keys
from app.apps.manifest import app_id_of, normalise
from app.core.errors import Invalid

SNAKE = (
    "must be snake_case: a lowercase letter, then lowercase letters, digits or underscores"
    " (63 at most)"
)


def manifest(**parts):
    return {"appId": "crm", "name": "CRM", **parts}


def entity(*fields, name="deals", **more):
    return manifest(dataContract=[{"entityName": name, "fields": list(fields), **more}])


def field(name="a", kind="text", **more):
    return entity({"name": name, "type": kind, **more})


def index(**body):
    return entity({"name": "a", "type": "text"}, indexes=[body])


def cron(**body):
    return manifest(crons=[{"name": "c", "schedule": "* * * * *", **body}])


def refusal(body):
    with pytest.raises(Invalid) as caught:
        normalise(body)
    return caught.value.message


RULES = {
    "R1": [
        ({"appId": "Crm", "name": "x"}, f"appId 'Crm' {SNAKE}"),
        ({"appId": "a" * 64, "name": "x"}, f"appId '{'a' * 64}' {SNAKE}"),
        (entity(name="Deals"), f"entityName 'Deals' {SNAKE}"),
        (field("2nd"), f"field name '2nd' {SNAKE}"),
        (entity(identityKind="a-b", identityKey="a"), f"identityKind 'a-b' {SNAKE}"),
    ],
    "R2": [
        ({"appId": name, "name": "x"}, f"app id '{name}' is reserved")
        for name in ("core", "public", "trellis", "information_schema", "pgmq", "cron", "pg_x")
    ],
    "R3": [
        ({"name": "x"}, "manifest: 'appId' is required"),
        ({"appId": "crm"}, "manifest: 'name' is required"),
        ({"appId": "crm", "name": ""}, "manifest: 'name' is required"),
        (manifest(version=1), "manifest: 'version' must be a string"),
        (manifest(configSchema=[]), "manifest: 'configSchema' must be an object"),
        (manifest(userAuth="x"), "manifest: 'userAuth' must be an object"),
        (manifest(dataContract={}), "manifest: 'dataContract' must be an array"),
        (
            manifest(dataContract=[{"entityName": "a"}]),
            "manifest: 'dataContract[0].fields' is required",
        ),
        (
            field(required="yes"),
            "manifest: 'dataContract[0].fields[0].required' must be a boolean",
        ),
        (manifest(actions=[{"id": "a"}]), "manifest: 'actions[0].name' is required"),
        (
            manifest(trigger={"appId": "a", "on": ["insert"]}),
            "manifest: 'trigger.entity' is required",
        ),
        (
            manifest(trigger={"appId": "a", "entity": "b", "on": []}),
            "manifest: 'trigger.on' is required",
        ),
    ],
    "R4": [(manifest(type="x"), "type must be 'app', 'integration' or 'agent'")],
    "R5": [
        (manifest(dataContract=[{"entityName": "a", "fields": []}] * 2), "duplicate entity 'a'"),
        (entity(*[{"name": "a", "type": "text"}] * 2), "duplicate field 'a'"),
        (manifest(actions=[{"id": "a", "name": "A"}] * 2), "duplicate action 'a'"),
        (manifest(crons=[{"name": "a", "schedule": "* * * * *"}] * 2), "duplicate cron 'a'"),
        (manifest(webhooks=["a", {"name": "a", "method": "x"}]), "duplicate webhook 'a'"),
    ],
    "R6": [
        (
            manifest(permissions={"permissions": [{"key": "A b"}]}),
            "'A b': only a-z, 0-9, '_', ':', '.', '*' allowed",
        ),
        (
            manifest(actions=[{"id": "a-b", "name": "x"}]),
            "'a-b': only a-z, 0-9, '_', ':', '.', '*' allowed",
        ),
    ],
    "R7": [
        (
            field("l", "entity_link", references={"entity": "zz"}),
            "field 'l' links to 'zz', which this manifest does not define",
        )
    ],
    "R8": [
        (
            field("l", "entity_link", references={"entity": "core:roles"}),
            "field 'l' links to 'core:roles', which does not exist",
        )
    ],
    "R9": [
        (
            field("l", "entity_link", references={"entity": "erp:items"}),
            "field 'l' links to 'erp:items': links into other apps are not supported",
        )
    ],
    "R10": [
        (entity(identityKey="a"), "entity 'deals': identityKind and identityKey go together"),
        (entity(identityKind="a"), "entity 'deals': identityKind and identityKey go together"),
    ],
    "R11": [
        (
            entity(identityKind="a", identityKey="zz"),
            "entity 'deals': identityKey 'zz' is not one of its fields",
        )
    ],
    "R12": [
        (
            field("l", "entity_link", references={"entity": "deals"}, on_delete="x"),
            "field 'l': on_delete must be cascade, restrict or set_null",
        ),
        (
            field("l", "entity_link", references={"entity": "deals", "field": "name"}),
            "field 'l': references.field must be 'id'",
        ),
        (field(enum_values=[1]), "field 'a': enum_values must be an array of strings"),
        (
            field(kind="number", enum_values=["x"]),
            "field 'a': enum value 'x' is not a valid number",
        ),
        (field("id", "number"), "field 'id': the type must be uuid or text"),
        (field(is_primary_key=True), "field 'a': only 'id' can be the primary key"),
        (
            field(kind="number", default_value="x"),
            "field 'a': default_value is not a valid number",
        ),
        (field(kind="text", default_value=[1]), "field 'a': default_value is not a valid text"),
        (
            field(kind="date", default_value="2026-02-30"),
            "field 'a': default_value is not a valid date",
        ),
        (
            field(default_value="x", defaultValue="y"),
            "field 'a': defaultValue and default_value differ",
        ),
    ],
    "R13": [
        (index(columns=[]), "entity 'deals': an index needs at least one column"),
        (index(columns=["zz"]), "entity 'deals': index column 'zz' is not a field"),
        (
            index(columns=["a"], using="magic"),
            "entity 'deals': index method 'magic' is not supported",
        ),
        (
            index(columns=[{"column": "a", "expr": "a"}]),
            "entity 'deals': an index column needs exactly one of column and expr",
        ),
        (
            index(columns=[{"column": "a", "sort": "up"}]),
            "entity 'deals': index sort must be asc or desc",
        ),
        *(
            (
                index(columns=["a"], where=f"a = 1 {fragment}"),
                "entity 'deals': SQL fragment not allowed",
            )
            for fragment in (";", "--", "/*", "$$")
        ),
        (entity(checks=[{"expr": " "}]), "entity 'deals': SQL fragment must not be empty"),
        (
            entity({"name": "a", "type": "text"}, indexes=[{"name": "i", "columns": ["a"]}] * 2),
            "entity 'deals': duplicate index 'i'",
        ),
        (
            entity(checks=[{"name": "c", "expr": "true"}, {"name": "c", "expr": "false"}]),
            "entity 'deals': duplicate check 'c'",
        ),
    ],
    "R14": [
        (
            manifest(trigger={"appId": "a", "entity": "b", "on": ["upsert"]}),
            "trigger: 'upsert' is not insert, update or delete",
        )
    ],
    "R15": [
        (cron(name="a b"), "cron 'a b': invalid cron name: 'a b'"),
        (cron(timezone="Mars/X"), "cron 'c': unknown timezone 'Mars/X'"),
        (cron(overlapPolicy="x"), "cron 'c': overlapPolicy must be 'skip' or 'queue'"),
        (
            cron(method="m", payload=[1]),
            "cron 'c': payload must be an object when method is given",
        ),
    ],
    "R16": [
        (
            manifest(public={"rpcs": [{"name": "a"}, {"name": "a"}]}),
            "public: duplicate rpc 'a'",
        ),
        (
            manifest(public={"collections": [{"entity": "zz", "actions": []}]}),
            "public: unknown entity 'zz'",
        ),
        (
            entity() | {"public": {"collections": [{"entity": "deals", "actions": ["drop"]}]}},
            "public: unknown action 'drop'",
        ),
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_text(rule):
    for body, text in RULES[rule]:
        assert refusal(body) == text, body


def test_a_schedule_says_what_is_wrong_with_it():
    assert refusal(cron(schedule="60 * * * *")).startswith(
        "cron 'c': invalid schedule '60 * * * *'"
    )


def test_the_id_is_checked_before_the_rest():
    assert app_id_of({"appId": "crm"}) == "crm"
    for body in ([], None, "crm"):
        with pytest.raises(Invalid, match="manifest must be a JSON object"):
            app_id_of(body)


def test_the_stored_form():
    stored = normalise(
        {
            **entity(
                {"name": "stage", "type": "text", "enumValues": ["a"], "defaultValue": "a"},
                {
                    "name": "of",
                    "type": "entity_link",
                    "references": {"entity": "deals"},
                    "required": True,
                },
                {"name": "created_at", "type": "text"},
                {"name": "n", "type": "number", "unknown": 1, "references": {"entity": "zz"}},
                unknown=1,
            ),
            "unknown": 1,
            "webhooks": ["a", {"name": "b", "method": "agent", "durable": False, "x": 1}],
            "crons": [{"name": "c", "schedule": "5 seconds", "method": "m"}],
            "trigger": {"appId": "x", "entity": "y", "on": ["INSERT", "insert"]},
        }
    )
    assert stored == {
        "appId": "crm",
        "name": "CRM",
        "version": "0.0.1",
        "description": "",
        "type": "app",
        "dataContract": [
            {
                "entityName": "deals",
                "fields": [
                    {
                        "name": "stage",
                        "type": "text",
                        "required": False,
                        "default_value": "a",
                        "enum_values": ["a"],
                    },
                    {
                        "name": "of",
                        "type": "entity_link",
                        "required": True,
                        "references": {"entity": "deals", "field": "id"},
                        "on_delete": "restrict",
                    },
                    {"name": "n", "type": "number", "required": False},
                ],
            }
        ],
        "actions": [],
        "crons": [
            {
                "name": "c",
                "schedule": "5 seconds",
                "payload": {"method": "m"},
                "overlapPolicy": "skip",
            }
        ],
        "webhooks": [{"name": "a", "method": "POST"}, {"name": "b", "method": "agent"}],
        "trigger": {"appId": "x", "entity": "y", "on": ["insert"]},
    }
    # What is stored can be installed again and stays as it is.
    assert normalise(stored) == stored


def test_a_declared_key_only_describes_an_automatic_one():
    body = entity() | {
        "permissions": {"permissions": [{"key": "invoke", "description": "Call"}]},
        "actions": [{"id": "sync", "name": "Sync"}],
    }
    found = keys.of_manifest(normalise(body))
    assert found["app:crm:invoke"] == "Call"
    assert found["app:crm:action:sync"] == "Sync (crm)"
    assert len(found) == 4 + len(keys.ALWAYS) + 1
