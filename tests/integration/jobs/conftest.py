from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.core.events import Subscriptions
from app.core.platform import Platform
from app.core.uow import UnitOfWorkFactory
from app.jobs import service
from app.jobs.service import NewJob


class Silent:
    """A publisher that sends nothing."""

    def publish(self, messages):
        pass


@dataclass
class World:
    """A platform with one user and apps whose workers may run."""

    platform: Platform
    owner: UUID

    def sql(self, statement, **values):
        with self.platform.uow() as uow:
            result = uow.session.execute(text(statement), values)
            return result.all() if result.returns_rows else []

    def add_app(self, app_id, *, desired="running"):
        self.sql(
            "INSERT INTO trellis.apps (id, name, version, manifest) VALUES (:id, :id, '1', '{}')",
            id=app_id,
        )
        self.sql(
            "INSERT INTO trellis.deployments (id, app_id, archive, sha256, size_bytes, entry_point, runtime, is_current)"
            " VALUES (:id, :app, '', '', 0, 'worker.py', 'python', true)",
            id=uuid4(),
            app=app_id,
        )
        self.sql(
            "INSERT INTO trellis.app_workers (app_id, desired_state) VALUES (:app, :desired)",
            app=app_id,
            desired=desired,
        )

    def set_desired(self, app_id, desired):
        self.sql(
            "UPDATE trellis.app_workers SET desired_state = :d WHERE app_id = :app",
            d=desired,
            app=app_id,
        )

    def put(self, count=1, *, app_id="crm", **options):
        options.setdefault("user_id", self.owner)
        # A publisher of its own: nobody here consumes the turns that are counted in Redis.
        with UnitOfWorkFactory(self.platform.engine, Silent(), Subscriptions())() as uow:
            jobs = [NewJob(app_id, {"n": n}, **options) for n in range(count)]
            return service.put(uow, jobs)

    def ids(self, table, app_id="crm"):
        return [
            row[0]
            for row in self.sql(
                f"SELECT msg_id FROM trellis.{table} WHERE app_id = :a ORDER BY msg_id", a=app_id
            )
        ]

    def expire(self):
        self.sql("UPDATE trellis.jobs_queue SET vt = now() - interval '1 s' WHERE NOT fresh")


@pytest.fixture
def world(platform):
    owner = uuid4()
    world = World(platform, owner)
    world.sql("INSERT INTO trellis.users (id, email) VALUES (:id, 'ana@example.com')", id=owner)
    world.add_app("crm")
    return world
