"""The unit of work: one transaction, the messages it causes, the events it emits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.core.events import Event, Subscriptions
from app.core.groups import Group
from app.core.messaging import Message, Publisher
from app.core.statements import DirectSession

E = TypeVar("E")
R = TypeVar("R")


class UnitOfWork:
    """What a use case gets: a session inside an open transaction.

    Services never commit; the edge that opened the unit of work does. Messages are published
    after that commit, and not at all when it fails.

    Attributes:
        single: there is no open transaction; see ``UnitOfWorkFactory.single``.
    """

    def __init__(
        self, session: Session, subscriptions: Subscriptions, *, single: bool = False
    ) -> None:
        self.session = session
        self.single = single
        self._subscriptions = subscriptions
        self._messages: list[Message] = []
        self._callbacks: list[Callable[[], None]] = []

    def send_after_commit(self, message: Message) -> None:
        """Publish a message once this transaction is committed; equal ones are sent once."""
        if message not in self._messages:
            self._messages.append(message)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run a callback once this transaction is committed; it must not raise."""
        self._callbacks.append(callback)

    def emit(self, event: Event) -> None:
        """Run the subscribers of an event now, inside this transaction."""
        for handler in self._subscriptions.of(event):
            handler(self, event)

    def committed(self, publisher: Publisher) -> None:
        """Do what waited for the commit. Called by the factory only."""
        for callback in self._callbacks:
            callback()
        if self._messages:
            publisher.publish(self._messages)


class UnitOfWorkFactory:
    """Opens units of work: ``with factory() as uow: ...`` commits on a normal exit."""

    def __init__(self, engine: Engine, publisher: Publisher, subscriptions: Subscriptions) -> None:
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single = single
        self._publisher = publisher
        self._subscriptions = subscriptions
        self._groups: dict[object, Group[Any, Any]] = {}  # Any: each with types of its own

    def __call__(self) -> AbstractContextManager[UnitOfWork]:
        """Open a unit of work; any exception rolls it back and publishes nothing."""
        return self._open()

    def reading(self) -> Session:
        """Return a session for single reads, in no transaction: two round trips fewer.

        Each statement sees what was committed before it; nothing may be written.
        """
        return DirectSession(self._single, expire_on_commit=False)

    @contextmanager
    def single(self) -> Iterator[UnitOfWork]:
        """Open a unit of work in which each statement is a transaction by itself.

        For one statement that writes: three round trips fewer. What an exception leaves written
        stays, so whoever writes more than once must see to that.
        """
        with self.reading() as session:
            uow = UnitOfWork(session, self._subscriptions, single=True)
            yield uow
        uow.committed(self._publisher)

    def together(self, work: Callable[[UnitOfWork, Sequence[E]], Sequence[R]], entry: E) -> R:
        """Do work for an entry, and for others that come in meanwhile, in one statement.

        Args:
            work: runs ONE statement, which is a transaction by itself (three round trips fewer),
                for 1 to 64 entries, and returns a result for each. A module's function.
            entry: whose result is returned; a failure of the statement hits its whole batch.
        """
        group = self._groups.get(work)
        if group is None:
            group = self._groups.setdefault(work, Group(lambda batch: self._run(work, batch)))
        found: R = group.do(entry)
        return found

    def _run(
        self, work: Callable[[UnitOfWork, Sequence[E]], Sequence[R]], batch: Sequence[E]
    ) -> Sequence[R]:
        with self.single() as uow:
            return work(uow, batch)

    @contextmanager
    def _open(self) -> Iterator[UnitOfWork]:
        with self._sessions() as session, session.begin():
            uow = UnitOfWork(session, self._subscriptions)
            yield uow
        uow.committed(self._publisher)
