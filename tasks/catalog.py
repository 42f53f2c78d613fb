"""What Postgres wants of each app, as this node knows it, and what its runtime is told."""

from __future__ import annotations

import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from app.agents import service as agents_service
from app.apps import service as apps_service
from app.core.crypto import VaultError
from app.core.platform import Platform
from app.secrets import service as secrets_service
from app.workers import repository
from app.workers.host import Stage
from app.workers.repository import Wanted
from workers_runtime.protocol import AppSpec, FailureKind, WorkerFailure

KNOWN_FOR_S: Final = 5.0
ARCHIVE_KEPT_S: Final = 3600.0


class Catalog:
    """Wanted states, at most 5 s old: a lost broadcast delays nothing for longer."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._platform = platform
        self._folder = folder
        self._known: dict[str, tuple[Wanted, float]] = {}

    def wanted(self, app_id: str) -> Wanted:
        """Return what is wanted of an app."""
        known = self._known.get(app_id)
        if known is not None and time.monotonic() - known[1] < KNOWN_FOR_S:
            return known[0]
        with self._platform.uow() as uow:
            found = repository.wanted(uow.session, app_id)
        return self.learn(found)

    def check(self, session: Session, app_id: str, found: Wanted | None) -> Wanted:
        """Remember what was read of an app, which exists for sure if there was anything.

        Raises:
            NotFound: the app is not installed.
        """
        if found is None:
            apps_service.require(session, app_id)
        return self.learn(found or Wanted(app_id))

    def learn(self, found: Wanted) -> Wanted:
        """Remember what was read."""
        self._known[found.app_id] = (found, time.monotonic())
        return found

    def forget(self, app_ids: list[str]) -> None:
        """Have the next question about these apps go to Postgres."""
        for app_id in app_ids:
            self._known.pop(app_id, None)

    def spec(self, app_id: str, *, home: bool) -> AppSpec:
        """Return what the runtime is told to run for an app, read now.

        Raises:
            WorkerFailure: it must not run, or its secrets cannot be decrypted.
        """
        with self._platform.uow() as uow:
            found = self.learn(repository.wanted(uow.session, app_id))
            if not found.should_run or found.deployment_id is None:
                text = f"worker for app '{app_id}' is not running"
                raise WorkerFailure(FailureKind.NOT_RUNNING, text)
            manifest = apps_service.manifest_of(uow.session, app_id)
            agent_config = agents_service.agent_config(uow.session, app_id)
            try:
                secrets = secrets_service.frozen(uow.session, self._platform.cipher, app_id)
            except VaultError as exc:
                raise WorkerFailure(FailureKind.START_FAILED, str(exc)) from exc
        return AppSpec(
            app_id=app_id,
            deployment_id=str(found.deployment_id),
            sha256=found.sha256,
            entry_point=found.entry_point or "",
            runtime=found.runtime or "python",
            generation=found.generation,
            runtime_url=self._platform.settings.http.public_url.rstrip("/"),
            credentials=secrets,
            manifest=manifest,
            agent_config=agent_config,
            home=home,
        )

    def staged_spec(self, stage: Stage) -> AppSpec:
        """Return what the runtime is told to start beside the current process.

        Raises:
            WorkerFailure: the secrets cannot be decrypted.
        """
        with self._platform.uow() as uow:
            manifest = apps_service.manifest_of(uow.session, stage.app_id)
            archive = repository.archive(uow.session, UUID(stage.deployment_id)) or b""
            agent_config = agents_service.agent_config(uow.session, stage.app_id, BytesIO(archive))
            try:
                secrets = secrets_service.snapshot(uow.session, self._platform.cipher, stage.app_id)
            except VaultError as exc:
                raise WorkerFailure(FailureKind.START_FAILED, str(exc)) from exc
        return AppSpec(
            app_id=stage.app_id,
            deployment_id=stage.deployment_id,
            sha256=stage.sha256,
            entry_point=stage.entry_point,
            runtime=stage.runtime,
            generation=stage.generation,
            runtime_url=self._platform.settings.http.public_url.rstrip("/"),
            credentials=secrets,
            manifest=manifest,
            agent_config=agent_config,
        )

    def fetch_archive(self, _app_id: str, deployment_id: str) -> Path:
        """Write a deployment's archive to a file for the runtime and return its path.

        Raises:
            WorkerFailure: the deployment is gone.
        """
        with self._platform.uow() as uow:
            data = repository.archive(uow.session, UUID(deployment_id))
        if data is None:
            raise WorkerFailure(FailureKind.BAD_ARCHIVE, "the deployment is gone")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prune()
        path = self._folder / f"{UUID(deployment_id)}.tar.gz"
        partial = path.with_suffix(f".{time.monotonic_ns()}.part")
        partial.write_bytes(data)
        partial.replace(path)
        return path

    def _prune(self) -> None:
        oldest = time.time() - ARCHIVE_KEPT_S
        for path in self._folder.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


def with_home(spec: AppSpec, *, home: bool) -> AppSpec:
    """Return the same spec with another home flag."""
    return replace(spec, home=home)
