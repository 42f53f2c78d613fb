"""Records of different apps that describe the same thing."""

import pytest

from tests.support.api import error


def app(app_id, *entities):
    return {"appId": app_id, "name": app_id, "dataContract": list(entities)}


def entity(name, *fields, key="email", kind="person"):
    return {
        "entityName": name,
        "fields": [{"name": n, "type": t} for n, t in fields],
        "identityKind": kind,
        "identityKey": key,
    }


CONTACTS = "/apps/crm/collections/contacts"


@pytest.fixture
def apps(admin):
    crm = entity("contacts", ("email", "text"), ("age", "number"))
    billing = [
        entity("customers", ("mail", "text"), ("seen", "timestamp"), key="mail"),
        entity("leads", ("mail", "text"), key="mail"),
    ]
    other = entity("cars", ("email", "text"), kind="car")
    for body in (app("crm", crm), app("billing", *billing), app("garage", other)):
        assert admin.post("/apps", body).status_code == 200
    admin.post(
        f"{CONTACTS}/bulk",
        [{"email": "ana", "age": 3}, {"email": "bob", "age": 5}, {"email": None}],
    )
    for name in ("old", "new"):
        admin.post(
            "/apps/billing/collections/customers", {"mail": "ana", "seen": f"2026-01-0{len(name)}"}
        )
    admin.post("/apps/garage/collections/cars", {"email": "ana"})
    return admin


@pytest.fixture
def reader(apps):
    apps.post("/roles", {"name": "r", "permissions": ["app:crm:contacts.read"]})
    user = apps.sign_up("reader@example.com")
    apps.post("/roles/assign", {"userId": user.user_id, "role": "r"})
    return user


def test_matching_rows_of_other_apps_are_shown(apps):
    newest = apps.get("/apps/billing/collections/customers?limit=1").json[0]
    expected = {"billing": {"entity": "customers", "recordId": newest["id"], "data": newest}}
    for query in (
        "linked=true",
        "linked=true&limit=10",
        "linked=billing",
        "linked=x,billing&limit=10",
    ):
        rows = {row["email"]: row for row in apps.get(f"{CONTACTS}?{query}").json}
        assert rows["ana"]["_linked"] == expected
        assert "_linked" not in rows["bob"]
        assert "_linked" not in rows[None]
    answer = apps.post(f"{CONTACTS}/query", {"linked": ["billing"], "where": {"email": "ana"}}).json
    assert answer["data"][0]["_linked"] == expected
    assert answer["total"] == 1
    plain = apps.get(f"{CONTACTS}?sort=age&order=asc").json
    linked = apps.get(f"{CONTACTS}?sort=age&order=asc&linked=true").json
    assert [{k: v for k, v in row.items() if k != "_linked"} for row in linked] == plain


def test_the_last_matching_entity_of_an_app_is_shown(apps):
    lead = apps.post("/apps/billing/collections/leads", {"mail": "ana"}).json
    row = apps.get(f"{CONTACTS}?linked=true&email=ana").json[0]
    assert row["_linked"]["billing"] == {"entity": "leads", "recordId": lead["id"], "data": lead}


@pytest.mark.parametrize("query", ["", "?linked=", "?linked=false", "?linked=garage"])
def test_nothing_is_linked_unless_asked_for(apps, query):
    assert all("_linked" not in row for row in apps.get(f"{CONTACTS}{query}").json)


def test_what_the_caller_may_not_read_is_left_out(reader):
    assert all("_linked" not in row for row in reader.get(f"{CONTACTS}?linked=true").json)
    found = reader.post("/federated/person/query", {}).json
    assert found["total"] == 3
    assert {row["_source"]["app"] for row in found["data"]} == {"crm"}
    assert reader.post("/federated/car/query", {}).json == {"data": [], "total": 0}


def test_federated_rows_of_every_app(apps):
    found = apps.post("/federated/person/query", {"limit": 2, "order": "asc"}).json
    assert found["total"] == 5
    assert [row["_source"] for row in found["data"]] == [{"app": "crm", "entity": "contacts"}] * 2
    by_age = apps.post("/federated/person/query", {"orderBy": "age"}).json["data"]
    assert [row.get("age") for row in by_age[:2]] == [5, 3]
    assert {row["_source"]["app"] for row in by_age[2:]} == {"crm", "billing"}
    assert apps.post("/federated/nothing/query", {}).json == {"data": [], "total": 0}


@pytest.mark.parametrize(
    ("where", "total"),
    [
        ({"mail": "ana"}, 2),
        ({"mail": None}, 3),
        ({"age": {"$gt": 3}}, 1),
        ({"$or": [{"email": "ana"}, {"mail": "ana"}]}, 3),
        ({"seen": {"$isNull": False}}, 2),
    ],
)
def test_federated_conditions(apps, where, total):
    assert apps.post("/federated/person/query", {"where": where}).json["total"] == total


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"where": {"zz": 1}}, "unknown field 'zz'"),
        ({"orderBy": "A b"}, "invalid sort field 'A b'"),
        ({"where": {"age": "x"}}, "field 'age': 'x' is not a valid number"),
    ],
)
def test_bad_federated_queries(apps, body, text):
    assert error(apps.post("/federated/person/query", body)) == (400, text)
