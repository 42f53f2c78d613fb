"""Keeping what runs on this node in step with what Postgres wants, and Postgres told of it.

One thread renews the node's home leases, takes those nobody holds, starts, replaces and stops
processes, and writes their states.

Source: REST contract part 30, sections 3.2, 3.3 and 15.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.core.platform import Platform
from app.workers import repository
from app.workers.repository import Wanted
from tasks.catalog import Catalog
from workers_runtime.client import RuntimeClient
from workers_runtime.protocol import AppState, AppStatus, Handshake, WorkerFailure

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
INTERVAL_S: Final = 5.0
GATHER_S: Final = 0.02
TAKEN_AT_ONCE: Final = 32
LIVE: Final = frozenset({AppStatus.RUNNING, AppStatus.STARTING})


@dataclass(frozen=True, slots=True)
class _Told:
    """What the runtime was told last about an app."""

    generation: int
    home: bool


class Homes:
    """The apps of one node. Thread-safe."""

    def __init__(
        self, platform: Platform, client: RuntimeClient, catalog: Catalog, node: str
    ) -> None:
        self._platform = platform
        self._client = client
        self._catalog = catalog
        self._node = node
        self._lock = threading.Lock()
        self._report_lock = threading.Lock()
        self._told: dict[str, _Told] = {}
        self._homes: set[str] = set()
        self._states: dict[str, AppState] = {}
        self._dirty: set[str] = set()
        self._event = threading.Event()
        self._sync_wanted = True
        self._taking = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="node-homes", daemon=True)

    # --- life ------------------------------------------------------------------------------

    def forget_predecessor(self) -> None:
        """Forget what an earlier process of this name reported; for the time before ``start``."""
        try:
            with self._platform.uow() as uow:
                repository.drop_node(uow.session, self._node)
        except SQLAlchemyError as exc:
            log.warning("node_rows_not_dropped", reason=type(exc).__name__)

    def start(self) -> None:
        """Keep step from now on."""
        self._thread.start()

    def stop_taking(self) -> None:
        """Give every home to the other nodes; nothing is started here any more."""
        self._taking = False
        self._write(lambda session: repository.release_leases(session, self._node))

    def stop(self) -> None:
        """End the thread and forget the node's rows."""
        self._stopping = True
        self._event.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._write(lambda session: repository.drop_node(session, self._node))

    def wake(self) -> None:
        """Compare with Postgres now."""
        self._sync_wanted = True
        self._event.set()

    def _write(self, work: object) -> None:
        try:
            with self._platform.uow() as uow:
                work(uow.session)  # type: ignore[operator]
        except SQLAlchemyError as exc:
            log.warning("node_state_not_written", reason=type(exc).__name__)

    # --- what the node does ----------------------------------------------------------------

    def ensure(self, app_id: str, *, clear: bool = False, adopt: bool = False) -> Future[Handshake]:
        """Tell the runtime what to run for an app, as Postgres has it now.

        Args:
            app_id: the app.
            clear: forget earlier crashes.
            adopt: become the app's home unless a live node is.

        Raises:
            WorkerFailure: it must not run, or its secrets cannot be decrypted.
        """
        if adopt:
            with self._platform.uow() as uow:
                if repository.take_lease(uow.session, app_id, self._node, LEASE_S):
                    self._homes.add(app_id)
        home = app_id in self._homes
        try:
            spec = self._catalog.spec(app_id, home=home)
        except WorkerFailure as exc:
            self._note_failure(app_id, exc)
            raise
        with self._lock:
            self._told[app_id] = _Told(spec.generation, home)
        return self._client.ensure(spec, clear=clear)

    def stop_app(self, app_id: str) -> Future[None]:
        """Stop an app's processes here and forget about it."""
        with self._lock:
            self._told.pop(app_id, None)
            self._homes.discard(app_id)
        return self._client.stop_app(app_id)

    def note(self, state: AppState) -> None:
        """Take an app's state from the runtime."""
        with self._lock:
            self._states[state.app_id] = state
            self._dirty.add(state.app_id)
        self._event.set()

    def runtime_gone(self) -> None:
        """Forget what the runtime was told: the next one knows nothing."""
        with self._lock:
            self._told.clear()
            for app_id in self._states:
                self._states[app_id] = AppState(app_id=app_id, status=AppStatus.STOPPED)
            self._dirty.update(self._states)
        self._event.set()

    def report(self) -> None:
        """Write the states that changed since the last report."""
        with self._report_lock:
            with self._lock:
                changed = [self._states[app_id] for app_id in self._dirty]
                self._dirty.clear()
            if not changed:
                return
            try:
                with self._platform.uow() as uow:
                    repository.report(uow.session, self._node, changed)
            except SQLAlchemyError as exc:
                log.warning("states_not_written", reason=type(exc).__name__)
                with self._lock:
                    self._dirty.update(state.app_id for state in changed)

    def _note_failure(self, app_id: str, exc: WorkerFailure) -> None:
        """Show an app that cannot even be handed to the runtime as crashed."""
        if exc.kind != "start_failed":
            return
        self.note(
            AppState(
                app_id=app_id,
                status=AppStatus.CRASHED,
                last_crash_at=time.time(),
                last_error=exc.message,
            )
        )

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        due = 0.0
        while not self._stopping:
            self._event.wait(max(0.0, due - time.monotonic()))
            self._event.clear()
            # States come in bursts: a process starts, runs, and others with it.
            time.sleep(GATHER_S)
            self.report()
            if self._taking and (self._sync_wanted or time.monotonic() >= due):
                due = time.monotonic() + INTERVAL_S
                self._sync_wanted = False
                self._sync_safely()
            elif not self._taking:
                due = time.monotonic() + INTERVAL_S

    def _sync_safely(self) -> None:
        try:
            self._sync()
        except SQLAlchemyError as exc:
            log.warning("sync_failed", reason=type(exc).__name__)
        except Exception:
            # The thread keeps the node in step; a bug with one app must not end it.
            log.exception("sync_failed")

    def _sync(self) -> None:
        with self._lock:
            known = set(self._told) | set(self._live())
        with self._platform.uow() as uow:
            homes = repository.renew_leases(uow.session, self._node, LEASE_S)
            if self._client.connected:
                taken = repository.take_leases(uow.session, self._node, LEASE_S, TAKEN_AT_ONCE)
                if len(taken) == TAKEN_AT_ONCE:
                    self._sync_wanted = True
                    self._event.set()
                homes |= taken
            repository.beat(uow.session, self._node)
            repository.sweep(uow.session)
            wanted = repository.wanted_of(uow.session, sorted(known | homes))
        self._homes = homes
        for found in wanted.values():
            self._catalog.learn(found)
            self._adjust(found)

    def _live(self) -> list[str]:
        return [app_id for app_id, state in self._states.items() if state.status in LIVE]

    def _adjust(self, found: Wanted) -> None:
        """Bring one app in step."""
        app_id = found.app_id
        told = self._told.get(app_id)
        home = app_id in self._homes
        if not found.should_run:
            if told is not None or app_id in self._live():
                self.stop_app(app_id)
            return
        current = told is not None and told.generation == found.generation
        if current and told is not None and told.home == home:
            return
        if not home and not current and app_id not in self._live():
            # Nobody calls it here; the next call brings the new generation.
            return
        try:
            self.ensure(app_id).add_done_callback(lambda done: _log_failure(app_id, done))
        except WorkerFailure as exc:
            with self._lock:
                self._told[app_id] = _Told(found.generation, home)
            log.warning("app_not_started", app_id=app_id, reason=exc.message)


def _log_failure(app_id: str, done: Future[Handshake]) -> None:
    exc = done.exception()
    if exc is not None:
        log.warning("app_not_started", app_id=app_id, reason=str(exc))
