"""The node: what a Celery worker process is besides Celery.

It owns one runtime (a child process that supervises the app processes), hands calls to it, knows
whose rights each call has, keeps the homes it leases alive, and reports states and a heartbeat.

Source: REST contract part 30, sections 1, 3 and 15; ADR 0003.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from celery import bootsteps
from celery.worker.state import maybe_shutdown
from redis import Redis
from sqlalchemy.exc import SQLAlchemyError

from app.auth.tokens import mint_access_token
from app.core.actor import Actor
from app.core.platform import Platform
from app.core.wire import Wire
from app.workers.host import CallOutcome, Conversation, OutcomeKind, Stage
from tasks import base, operations
from tasks.calls import CallRegister, OpenCall
from tasks.catalog import Catalog
from tasks.handover import Handover
from tasks.heartbeat import Heartbeat
from tasks.homes import Homes
from tasks.outcomes import command_error, outcome_of
from tasks.outgoing import Outgoing
from tasks.shortcut import Shortcut
from workers_runtime.client import Reply, RuntimeClient, RuntimeHandlers
from workers_runtime.confine import hide
from workers_runtime.node_protocol import Operation, Welcome
from workers_runtime.protocol import (
    AGENT_OPERATIONS,
    AppState,
    CallKind,
    FailureKind,
    JSONObject,
    LogEntry,
    WorkerFailure,
)

if TYPE_CHECKING:
    from tasks.sql_sessions import SQLSessions

log = structlog.get_logger(__name__)

ACCEPT_THREADS: Final = 8
OPERATION_THREADS: Final = 16
ACTION_THREADS: Final = 8
CONTROL_THREADS: Final = 4
STOP_TIMEOUT_S: Final = 15.0
RUNTIME_TIMEOUT_S: Final = 75.0
START_MARGIN_S: Final = 20.0
TOKEN_USE_S: Final = 30.0
KEPT_TOKENS: Final = 4096
ACCOUNT_GONE: Final = "account not available"


class Node:
    """One Celery worker process with its runtime; implements ``DeployHost``. Thread-safe."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform = platform
        self.node = name
        self.identity = f"{name}/{secrets.token_hex(6)}"
        self.calls = CallRegister()
        self._sql: SQLSessions | None = None
        self._sql_lock = threading.Lock()
        # Nodes of one machine share bundles, environments and the copied interpreter.
        folder = platform.settings.data_dir / "runtime"
        self.catalog = Catalog(platform, folder / "archives")
        self.outgoing = Outgoing(
            Wire(
                platform.settings.redis.url,
                timeout_s=platform.settings.redis.timeout.total_seconds(),
            ),
            node=name,
            identity=self.identity,
            log_buffer=platform.settings.workers.log_buffer,
        )
        self._tokens: dict[tuple[UUID, str, str], tuple[str, float]] = {}
        self._shortcut = Shortcut()
        self._accepting = ThreadPoolExecutor(ACCEPT_THREADS, thread_name_prefix="accept")
        self._operations = ThreadPoolExecutor(OPERATION_THREADS, thread_name_prefix="operation")
        self._actions = ThreadPoolExecutor(ACTION_THREADS, thread_name_prefix="self-action")
        self._control = ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="node-control")
        self.client = self._make_client(folder)
        self.homes = Homes(platform, self.client, self.catalog, name)
        self._handover = Handover(
            self.client,
            self.homes,
            self.calls,
            control=self._control,
            cleanups=self._operations,
        )
        self._heartbeat = Heartbeat(
            _redis(platform), self.identity, alive=lambda: self.client.connected
        )

    def _make_client(self, folder: Path) -> RuntimeClient:
        return RuntimeClient(
            state_dir=folder,
            # The node is the runtime's composition root: it hands on its own environment.
            env=os.environ,  # noqa: TID251
            handlers=RuntimeHandlers(
                fetch_archive=self.catalog.fetch_archive,
                on_operation=self._on_operation,
                on_logs=self._on_logs,
                on_state=self._on_state,
                on_call_ended=lambda _app_id, token: self._handover.end(token),
                on_up=self._on_up,
                on_down=self._on_down,
            ),
        )

    @property
    def sql(self) -> SQLSessions:
        """SQL of app processes; its driver is loaded when one first sends some."""
        with self._sql_lock:
            if self._sql is None:
                from app.data.app_sql import AppDatabase
                from tasks.sql_sessions import SQLSessions

                database = AppDatabase(self.platform.settings, self.platform.engine)
                self._sql = SQLSessions(database, self.calls)
            return self._sql

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the runtime and take part in the cluster."""
        self.outgoing.start()
        self.client.launch()
        self.homes.forget_predecessor()
        # A worker told to stop must not wait for a runtime that cannot start.
        self.client.start(RUNTIME_TIMEOUT_S, meanwhile=maybe_shutdown)
        self.homes.start()
        self._heartbeat.start()
        log.info("node_started", node=self.node, runtime_pid=self.client.pid)

    def stop(self) -> None:
        """Take no more work, stop every app in order, and say so."""
        self._heartbeat.stop()
        self.homes.stop_taking()
        self.client.stop()
        self.homes.stop()
        self._accepting.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False, cancel_futures=True)
        self._operations.shutdown(wait=False, cancel_futures=True)
        self._actions.shutdown(wait=False, cancel_futures=True)
        if self._sql is not None:
            self._sql.close()
        self.outgoing.stop()
        log.info("node_stopped", node=self.node)

    # --- calls -----------------------------------------------------------------------------

    def accept(self, work: Callable[[], None]) -> None:
        """Look at calls that came in: here, or on another thread while Postgres is slow."""
        if self._shortcut.open:
            self._look(work)
        else:
            self._accepting.submit(self._look, work)

    def _look(self, work: Callable[[], None]) -> None:
        self._shortcut.measure(_logged, work)

    def call(
        self,
        app_id: str,
        kind: CallKind,
        message: JSONObject,
        *,
        actor: Actor | None,
        lifetime_s: float | None = None,
        conversation: Conversation | None = None,
    ) -> Future[CallOutcome]:
        """Hand one call to the app's process on this node; see ``WorkerHost.call``."""
        try:
            wanted = self.catalog.wanted(app_id)
        except SQLAlchemyError:
            return _refused(app_id, kind, FailureKind.NOT_READY)
        if not wanted.should_run:
            return _refused(app_id, kind, FailureKind.NOT_RUNNING)
        call = OpenCall(secrets.token_hex(16), app_id, kind, actor, message, conversation)
        if conversation is not None:
            conversation.token = call.token
        full = {**message, "caller": self._caller(app_id, actor)}
        return self._handover.send(call, full, generation=wanted.generation, lifetime_s=lifetime_s)

    def end_call(self, token: str, text: str) -> None:
        """End an open call; see ``WorkerHost``."""
        self.client.end_call(token, text)

    def capabilities(self, app_id: str) -> frozenset[str]:
        """Return what the app's process announced; see ``WorkerHost``."""
        if not self.catalog.wanted(app_id).should_run:
            return frozenset()
        workers = self.platform.settings.workers
        limit = workers.deploy_install_timeout + workers.handshake_timeout
        try:
            handshake = self.homes.ensure(app_id).result(limit.total_seconds() + START_MARGIN_S)
        except (WorkerFailure, TimeoutError) as exc:
            raise command_error(exc) from exc
        return frozenset(handshake.capabilities)

    def _caller(self, app_id: str, actor: Actor | None) -> JSONObject | None:
        """Return ``caller`` of contract part 30, 4.2."""
        if actor is None or actor.user_id is None:
            return None
        caller = {"userId": str(actor.user_id), "email": actor.email}
        if actor.delegator_id is not None:
            return {**caller, "effectivePerms": actor.permissions.sorted()}
        settings = self.platform.settings
        if settings.workers.caller_token and actor.email:
            caller["authToken"] = self._token(actor.user_id, actor.email, app_id)
        return caller

    def _token(self, user_id: UUID, email: str, app_id: str) -> str:
        """Return a caller token; one is used for half a minute, for signing takes time."""
        key = (user_id, email, app_id)
        now = time.monotonic()
        token, good_until = self._tokens.get(key, ("", 0.0))
        if now >= good_until:
            token = mint_access_token(self.platform.settings.auth, user_id, email, app_id=app_id)
            if len(self._tokens) >= KEPT_TOKENS:
                self._tokens.clear()
            self._tokens[key] = (token, now + TOKEN_USE_S)
        return token

    # --- deploys and starts ----------------------------------------------------------------

    def stage(self, stage: Stage) -> None:
        """Start a process of a deployment that is not current yet; see ``DeployHost``."""
        self._await(
            lambda: self.client.ensure(self.catalog.staged_spec(stage), staged=True, clear=True)
        )

    def discard(self, app_id: str) -> None:
        """Stop the staged process."""
        self.client.discard(app_id)

    def start_app(self, app_id: str) -> None:
        """Have a process of what Postgres wants now; see ``DeployHost``."""
        self._await(lambda: self.homes.ensure(app_id, clear=True, adopt=True))
        self.homes.report()

    def _await(self, command: Callable[[], Future[Any]]) -> None:  # Any: a handshake
        workers = self.platform.settings.workers
        limit = workers.deploy_install_timeout + workers.handshake_timeout
        try:
            command().result(limit.total_seconds() + START_MARGIN_S)
        except (WorkerFailure, TimeoutError) as exc:
            raise command_error(exc) from exc

    # --- remote control --------------------------------------------------------------------

    def control(self, work: Callable[[], None]) -> None:
        """Run a command of the cluster on a thread that calls do not use up."""
        self._control.submit(_logged, work)

    def stop_app(self, app_id: str) -> None:
        """Stop an app's processes here and report it; returns when they are gone."""
        self.catalog.forget([app_id])
        self.homes.stop_app(app_id).result(STOP_TIMEOUT_S)
        self.homes.report()

    def forget_app(self, app_id: str) -> None:
        """Stop an app that was uninstalled and delete its log."""
        self.stop_app(app_id)
        self.outgoing.drop_log(app_id)

    def refresh(self, app_ids: list[str]) -> None:
        """Compare what runs with what Postgres wants, now."""
        self.catalog.forget(app_ids)
        self.homes.wake()

    def end_user(self, user_id: UUID) -> None:
        """End the open calls of a user who is gone."""
        for token in self.calls.of_user(user_id):
            self.client.end_call(token, ACCOUNT_GONE)

    # --- what the runtime says, on its link thread -----------------------------------------

    def _on_operation(self, operation: Operation, reply: Reply) -> None:
        if operation.kind is CallKind.START:
            call: OpenCall | None = self.calls.start_call(operation.call, operation.app_id)
        else:
            call = self.calls.find(operation.call, operation.app_id)
        if call is None or call.over:
            reply({"error": "call is over"})
            return
        found = call
        if found.conversation is not None and operation.message.get("type") in AGENT_OPERATIONS:
            found.conversation.on_message(operation.message, reply)
            return
        slow = operation.message.get("type") == operations.SLOW
        try:
            (self._actions if slow else self._operations).submit(
                lambda: operations.perform(self, found, operation.message, reply)
            )
        except RuntimeError:
            reply({"error": "worker host stopping"})

    def _on_logs(self, entries: list[LogEntry]) -> None:
        self.outgoing.log_lines(entries)

    def _on_state(self, state: AppState) -> None:
        self.homes.note(state)

    def _on_up(self, _welcome: Welcome) -> None:
        self.homes.wake()

    def _on_down(self) -> None:
        self.homes.runtime_gone()
        self._operations.submit(self.calls.end_starts)


def _refused(app_id: str, kind: CallKind, why: FailureKind) -> Future[CallOutcome]:
    """Return the end of a call that no process was asked about."""
    ended: Future[CallOutcome] = Future()
    ended.set_result(outcome_of(app_id, kind, WorkerFailure(why, why.value), None))
    return ended


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("node_command_failed")


def _redis(platform: Platform) -> Redis:
    """Return a client of its own: a blocked one must not hold up the others."""
    timeout_s = platform.settings.redis.timeout.total_seconds()
    return Redis.from_url(
        platform.settings.redis.url,
        decode_responses=False,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )


_current: Node | None = None


def current_node() -> Node:
    """Return the node of this process.

    Raises:
        RuntimeError: this process is not a worker, or not ready yet.
    """
    if _current is None:
        raise RuntimeError("this process is not a worker")
    return _current


class NodeStep(bootsteps.StartStopStep):
    """Runs the node inside the Celery worker: up before its first task, down after its last."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:  # Any: Celery's WorkController
        """Start the node."""
        global _current  # noqa: PLW0603 - Celery gives its tasks no other way to the process
        # Its environment and memory hold every key; app code may run as the same user.
        hide()
        node = Node(base.platform_of(worker.app), worker.hostname)
        _current = node
        node.start()

    def stop(self, _worker: Any) -> None:  # Any: as above
        """Stop the node."""
        if _current is not None:
            _current.stop()

    terminate = stop


__all__ = ["Node", "NodeStep", "OutcomeKind", "current_node"]
