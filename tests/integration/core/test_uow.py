"""The unit of work: all or nothing, and messages only after the commit."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from sqlalchemy import create_engine, text

from app.core.events import Event, Subscriptions
from app.core.messaging import CeleryPublisher, Message, Queue, make_celery
from app.core.uow import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Look(Message):
    name: ClassVar[str] = "test.look"
    queue: ClassVar[Queue] = Queue.MAINTENANCE
    row_id: int


@dataclass(frozen=True)
class RowAdded(Event):
    row_id: int


class Recorder:
    """Records what was published, and what another connection saw at that moment."""

    def __init__(self, engine):
        self.engine = engine
        self.published = []
        self.visible = []

    def publish(self, messages):
        self.published.extend(messages)
        with self.engine.connect() as connection:
            self.visible.append(connection.scalar(text("SELECT count(*) FROM probe")))


@pytest.fixture
def engine(database_url):
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE probe (id int PRIMARY KEY)"))
    yield engine
    engine.dispose()


@pytest.fixture
def recorder(engine):
    return Recorder(engine)


def add(uow, row_id):
    uow.session.execute(text("INSERT INTO probe VALUES (:id)"), {"id": row_id})
    uow.send_after_commit(Look(row_id))


def test_messages_are_published_once_their_rows_are_visible(engine, recorder):
    with UnitOfWorkFactory(engine, recorder, Subscriptions())() as uow:
        add(uow, 1)
        uow.send_after_commit(Look(1))
        assert recorder.published == []
    assert recorder.published == [Look(1)]
    assert recorder.visible == [1]


def test_an_exception_rolls_back_and_publishes_nothing(engine, recorder):
    called = []
    with (
        pytest.raises(ZeroDivisionError),
        UnitOfWorkFactory(engine, recorder, Subscriptions())() as uow,
    ):
        add(uow, 1)
        uow.after_commit(lambda: called.append(1))
        1 / 0  # noqa: B018
    assert recorder.published == []
    assert called == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM probe")) == 0


def test_a_failing_commit_publishes_nothing(engine, recorder):
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE child (id int REFERENCES probe DEFERRABLE INITIALLY DEFERRED)")
        )
    with (
        pytest.raises(Exception, match="foreign key"),
        UnitOfWorkFactory(engine, recorder, Subscriptions())() as uow,
    ):
        add(uow, 1)
        uow.session.execute(text("INSERT INTO child VALUES (99)"))
    assert recorder.published == []


def test_subscribers_run_inside_the_same_transaction(engine, recorder):
    subscriptions = Subscriptions()
    subscriptions.add(RowAdded, lambda uow, event: add(uow, event.row_id + 1))
    factory = UnitOfWorkFactory(engine, recorder, subscriptions)
    with pytest.raises(ZeroDivisionError), factory() as uow:
        uow.emit(RowAdded(1))
        1 / 0  # noqa: B018
    with factory() as uow:
        uow.emit(RowAdded(1))
    assert recorder.published == [Look(2)]
    assert recorder.visible == [1]


def test_a_dead_broker_costs_no_commit_and_no_error(engine, settings):
    from dataclasses import replace

    dead = replace(settings, redis=replace(settings.redis, url="redis://127.0.0.1:1/0"))
    celery = make_celery(dead)
    with UnitOfWorkFactory(engine, CeleryPublisher(celery), Subscriptions())() as uow:
        add(uow, 1)
    celery.close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM probe")) == 1
