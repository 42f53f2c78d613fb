"""SQL that app processes send: single statements, and transactions that belong to one call.

Source: REST contract part 30, section 4.5.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import pq

from app.core.actor import Source
from app.core.errors import Failed, Invalid, TooMany
from app.data import app_sql
from app.data.app_sql import Answer, AppDatabase, Identity
from app.data.logins import Connection
from tasks.calls import CallRegister, OpenCall
from workers_runtime.protocol import JSONObject

MAX_TRANSACTIONS: Final = 8
TRANSACTION_LIFE_S: Final = 60.0
PER_SECOND: Final = 100


class Transaction:
    """One open transaction of one call."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self.id = secrets.token_hex(8)
        self.connection = connection
        self.identity = identity
        self.lock = threading.Lock()
        self.active = True


class SQLSessions:
    """The SQL of one node's app processes. Thread-safe."""

    def __init__(self, database: AppDatabase, calls: CallRegister) -> None:
        self._database = database
        self._calls = calls
        self._lock = threading.Lock()
        self._open: dict[str, Transaction | None] = {}
        self._spent: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def close(self) -> None:
        """Roll back what is open and close the connections."""
        for token in list(self._open):
            self._end(token)
        self._database.close()

    def query(self, call: OpenCall, message: JSONObject) -> Answer:
        """Run one statement in a transaction of its own."""
        statement, params = self._statement(call, message)
        with self._connection() as connection:
            self._database.become(connection, Identity.of(call.app_id, call.actor, Source.APP_SQL))
            answer = app_sql.execute(connection, statement, params)
            _commit(connection)
        return answer

    def begin(self, call: OpenCall) -> Answer:
        """Open the call's transaction."""
        with self._lock:
            if call.token in self._open:
                raise Failed("a transaction is already open")
            if len(self._open) >= MAX_TRANSACTIONS:
                raise TooMany("too many concurrent transactions; retry", retry_after_s=1)
            # The place is taken before the connection is there: two begins cannot both have it.
            self._open[call.token] = None
        transaction: Transaction | None = None
        try:
            identity = Identity.of(call.app_id, call.actor, Source.APP_TX)
            transaction = Transaction(self._database.take(), identity)
            self._database.become(transaction.connection, identity)
        except BaseException:
            with self._lock:
                self._open.pop(call.token, None)
            if transaction is not None:
                self._release(transaction)
            raise
        self._open[call.token] = transaction
        timer = threading.Timer(TRANSACTION_LIFE_S, self._expire, [transaction])
        timer.daemon = True
        timer.start()
        if not self._calls.on_end(call, lambda: self._end(call.token)):
            self._end(call.token)
            raise Failed("call is over")
        return {"tx_id": transaction.id}

    def execute(self, call: OpenCall, message: JSONObject) -> Answer:
        """Run one statement in the call's transaction."""
        statement, params = self._statement(call, message)
        transaction = self._transaction(call, message)
        with transaction.lock:
            _require_active(transaction)
            try:
                # Again for each statement: the one before may have changed the limits.
                self._database.become(transaction.connection, transaction.identity)
                return app_sql.execute(transaction.connection, statement, params)
            except psycopg.Error as exc:
                raise app_sql.database_message(exc) from exc

    def commit(self, call: OpenCall, message: JSONObject) -> Answer:
        """Commit the call's transaction."""
        transaction = self._transaction(call, message)
        with transaction.lock:
            try:
                _require_active(transaction)
                _commit(transaction.connection)
            finally:
                self._finish(call.token, transaction)
        return {}

    def rollback(self, call: OpenCall, message: JSONObject) -> Answer:
        """Roll the call's transaction back."""
        transaction = self._transaction(call, message)
        with transaction.lock:
            try:
                _require_active(transaction)
            finally:
                self._finish(call.token, transaction)
        return {}

    def _statement(self, call: OpenCall, message: JSONObject) -> tuple[str, list[Any]]:
        statement, params = message.get("sql"), message.get("params")
        if not isinstance(statement, str) or not statement.strip():
            raise Invalid("field 'sql' must be a string")
        if params is None:
            params = []
        if not isinstance(params, list):
            raise Invalid("field 'params' must be an array")
        self._spend(call.app_id)
        app_sql.refuse(statement)
        return statement, params

    def _spend(self, app_id: str) -> None:
        """Count a statement; an app has one process on a node, so this is per process."""
        now = int(time.monotonic())
        with self._lock:
            second, count = self._spent[app_id]
            count = count + 1 if second == now else 1
            self._spent[app_id] = (now, count)
        if count > PER_SECOND:
            raise TooMany("rate limited: 100 statements per second", retry_after_s=1)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = self._database.take()
        try:
            yield connection
        except psycopg.Error as exc:
            raise app_sql.database_message(exc) from exc
        finally:
            self._database.give_back(connection)

    def _transaction(self, call: OpenCall, message: JSONObject) -> Transaction:
        transaction = self._open.get(call.token)
        if transaction is None:
            raise Failed("no open transaction")
        if message.get("tx_id") != transaction.id:
            raise Failed("tx_id mismatch")
        return transaction

    def _expire(self, transaction: Transaction) -> None:
        """Roll back a transaction that lived too long; the call learns it at its next use."""
        if not transaction.active:
            return
        # A statement under way holds the lock; cancelling it lets go of it.
        with contextlib.suppress(psycopg.Error):
            transaction.connection.cancel()
        with transaction.lock:
            self._release(transaction)

    def _end(self, token: str) -> None:
        transaction = self._open.get(token)
        if transaction is None:
            return
        with transaction.lock:
            self._finish(token, transaction)

    def _finish(self, token: str, transaction: Transaction) -> None:
        self._release(transaction)
        with self._lock:
            self._open.pop(token, None)

    def _release(self, transaction: Transaction) -> None:
        if transaction.active:
            transaction.active = False
            self._database.give_back(transaction.connection)


def _require_active(transaction: Transaction) -> None:
    if not transaction.active or transaction.connection.closed:
        raise Failed("transaction no longer active")


def _commit(connection: Connection) -> None:
    """Commit, or say why it cannot be.

    Raises:
        Failed: a statement failed before, or a deferred constraint does now.
    """
    if connection.info.transaction_status is pq.TransactionStatus.INERROR:
        raise Failed(app_sql.ROLLED_BACK)
    try:
        connection.commit()
    except psycopg.Error as exc:
        raise app_sql.database_message(exc) from exc
