"""An app with every field type, installed by its administrator."""

import pytest

ALL_TYPES = {
    "appId": "fleet",
    "name": "Fleet desk",
    "version": "1.2.0",
    "dataContract": [
        {
            "entityName": "vehicles",
            "fields": [
                {"name": "plate", "type": "text", "required": True},
                {"name": "km", "type": "number"},
                {"name": "active", "type": "boolean", "defaultValue": True},
                {"name": "bought_on", "type": "date"},
                {"name": "seen_at", "type": "timestamp"},
                {"name": "extra", "type": "json"},
                {"name": "photo", "type": "file"},
                {"name": "external", "type": "uuid"},
                {"name": "tags", "type": "[text]"},
                {"name": "scores", "type": "[number]"},
                {"name": "status", "type": "text", "enum_values": ["new", "used"]},
                {"name": "kind", "type": "something_else"},
                {"name": "driver_id", "type": "entity_link", "references": {"entity": "drivers"}},
                {"name": "owner_id", "type": "entity_link", "references": {"entity": "core:users"}},
            ],
            "indexes": [{"columns": ["plate"], "unique": True}],
            "checks": [{"name": "km_positive", "expr": "km >= 0"}],
        },
        {
            "entityName": "drivers",
            "fields": [{"name": "name", "type": "text"}, {"name": "order", "type": "text"}],
        },
        {
            "entityName": "codes",
            "fields": [{"name": "id", "type": "text"}, {"name": "label", "type": "text"}],
        },
    ],
}
VEHICLES = "/apps/fleet/collections/vehicles"
DRIVERS = "/apps/fleet/collections/drivers"
CODES = "/apps/fleet/collections/codes"


@pytest.fixture
def fleet(admin):
    """The administrator's client; the app ``fleet`` is installed."""
    answer = admin.post("/apps", ALL_TYPES)
    assert answer.status_code == 200, answer.json
    return admin


@pytest.fixture(scope="module")
def shared_fleet(shared_admin):
    """As ``fleet``, shared by the tests of a module that store nothing."""
    answer = shared_admin.post("/apps", ALL_TYPES)
    assert answer.status_code == 200, answer.json
    return shared_admin


@pytest.fixture
def clerk(fleet):
    """Return a client of a new user who holds the given permission keys."""

    def hire(name, *keys):
        made = fleet.post("/roles", {"name": name, "permissions": list(keys)})
        assert made.status_code in {200, 201}, made.json
        user = fleet.sign_up(f"{name}@example.com")
        given = fleet.post("/roles/assign", {"userId": user.user_id, "role": name})
        assert given.status_code == 200, given.json
        return user

    return hire
