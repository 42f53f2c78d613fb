"""Cached permissions act on the very next request of every process."""

import threading
from uuid import UUID

import pytest
from sqlalchemy import event, text

from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from app.core.permissions import Permissions
from app.factory import create_app
from app.rbac import service as rbac_service
from app.rbac.cache import PermissionCache
from tests.support.api import ApiClient, error


@pytest.fixture
def elsewhere(settings):
    """A second platform on the same database, like another process."""
    celery = make_celery(settings)
    platform = bootstrap(settings, CeleryPublisher(celery), process="test2")
    yield platform
    platform.engine.dispose()
    platform.redis.close()
    celery.close()


@pytest.fixture
def nora(client, admin):
    return client.sign_up("nora@acme.test")


class Statements:
    """Counts what a platform sends to Postgres."""

    def __init__(self, engine):
        self.seen = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection, _cursor, statement, *_rest):
        self.seen.append(statement)


def test_the_hot_path_is_one_statement(admin, nora, platform):
    nora.get("/permissions/available")
    statements = Statements(platform.engine)
    with platform.uow() as uow:
        actor = rbac_service.load_actor(uow.session, UUID(nora.user_id))
    assert actor.email == "nora@acme.test"
    assert len(statements.seen) == 1


def test_a_change_in_one_process_acts_on_the_next_request_of_another(admin, nora, elsewhere):
    there = ApiClient(create_app(elsewhere).test_client(), nora.token, nora.user_id)
    role = {"name": "r", "permissions": ["admin:audit.read"]}

    def keys():
        return [row["key"] for row in there.get("/permissions/available").json]

    for _ in range(20):
        assert keys() == []
        admin.post("/roles", role)
        admin.post("/roles/assign", {"userId": nora.user_id, "role": "r"})
        assert keys() == ["admin:audit.read"]
        admin.patch("/roles/r", {"permissions": ["tool:query_data"]})
        assert keys() == ["tool:query_data"]
        admin.post("/roles/revoke", {"userId": nora.user_id, "role": "r"})
        assert keys() == []
        admin.post("/roles/assign", {"userId": nora.user_id, "role": "r"})
        assert keys() == ["tool:query_data"]
        admin.delete("/roles/r")
    admin.delete(f"/users/{nora.user_id}")
    assert error(there.get("/permissions/available")) == (401, "invalid or expired token")


def test_changes_by_hand_act_at_once_too(admin, nora, platform):
    def run(statement):
        with platform.engine.begin() as connection:
            connection.execute(text(statement), {"u": nora.user_id})

    assert error(nora.post("/roles", {"name": "x"}))[0] == 403
    run("INSERT INTO trellis.rbac_assignments (user_id, role) VALUES (:u, 'admin')")
    assert nora.post("/roles", {"name": "x"}).status_code == 200
    run("DELETE FROM trellis.rbac_assignments WHERE user_id = :u")
    assert error(nora.post("/roles", {"name": "y"}))[0] == 403
    run("UPDATE trellis.rbac_roles SET permissions = '{*}' WHERE name = 'base'")
    run("INSERT INTO trellis.rbac_assignments (user_id, role) VALUES (:u, 'base')")
    assert nora.post("/roles", {"name": "y"}).status_code == 200
    run("UPDATE trellis.users SET disabled_at = now() WHERE id = :u")
    assert error(nora.get("/auth/me"))[0] == 401
    run("UPDATE trellis.users SET disabled_at = NULL WHERE id = :u")
    assert nora.get("/auth/me").status_code == 200


def test_what_was_seen_inside_a_rolled_back_change_is_not_kept(admin, nora, platform):
    user_id = UUID(nora.user_id)

    class Undone(Exception):
        pass

    def loaded(uow):
        return rbac_service.load_actor(uow.session, user_id).permissions

    with pytest.raises(Undone), platform.uow() as uow:
        rbac_service.make_admin(uow, user_id)
        assert loaded(uow).everything
        raise Undone
    with platform.uow() as uow:
        assert loaded(uow) == Permissions()
    with platform.uow() as uow:
        rbac_service.grant_app_admin(uow, "crm", user_id)
    with platform.uow() as uow:
        assert loaded(uow) == Permissions.of({"app:crm:*"})


def test_an_uncommitted_change_is_not_seen_by_others(admin, nora, platform):
    user_id = UUID(nora.user_id)
    with platform.uow() as writer:
        rbac_service.make_admin(writer, user_id)
        assert error(nora.post("/roles", {"name": "x"}))[0] == 403
    assert nora.post("/roles", {"name": "x"}).status_code == 200


def test_readers_never_wait_for_a_change_under_way(admin, nora, platform):
    with platform.uow() as writer:
        rbac_service.grant_app_admin(writer, "crm", UUID(nora.user_id))
        answers = []
        reader = threading.Thread(target=lambda: answers.append(nora.get("/auth/me").status_code))
        reader.start()
        reader.join(5)
        assert answers == [200]


def test_the_cache_is_bounded_and_keeps_one_stamp():
    cache = PermissionCache(limit=2)
    one, two = UUID(int=1), UUID(int=2)
    users = [UUID(int=n) for n in range(10, 13)]
    for user in users[:2]:
        cache.put(one, user, Permissions.of({str(user)}))
    assert cache.get(one, users[0]) == Permissions.of({str(users[0])})
    assert cache.get(two, users[0]) is None
    cache.put(one, users[2], Permissions())
    assert cache.get(one, users[0]) is None
    assert cache.get(one, users[2]) == Permissions()
    cache.put(two, users[0], Permissions())
    assert cache.get(one, users[2]) is None
