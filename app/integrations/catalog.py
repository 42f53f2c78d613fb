"""The integrations that come with the platform: manifests and code beside this module.

A folder of the catalog holds ``manifest.json`` and the files of an ordinary Python worker; those
of ``_shared`` are packed along with each.

Source: REST contract part 40, sections 5.2 and 6.
"""

from __future__ import annotations

import gzip
import io
import json
import secrets
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core import vault
from app.core.actor import Actor
from app.core.crypto import Cipher, digest
from app.core.errors import AppError, Failed, NotFound, NotReady
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.integrations import installed, safe
from app.integrations.events import OwnWebhookNeeded
from app.integrations.installed import Integration
from app.workers import deploys
from app.workers import service as workers_service

log = structlog.get_logger(__name__)

FOLDER: Final = Path(__file__).parent / "catalog"
MANIFEST: Final = "manifest.json"
SHARED: Final = "_shared"


@cache
def entries() -> dict[str, Integration]:
    """Return the integrations of the catalog by id."""
    found = [
        Integration(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        for folder in sorted(FOLDER.iterdir())
        if (folder / MANIFEST).is_file()
    ]
    return {entry.id: entry for entry in found}


def listed(session: Session) -> list[dict[str, Any]]:  # Any: JSON values
    """Return the catalog by id, with what is installed of it."""
    present = {integration.id for integration in installed.everything(session)}
    return [{**entry.described(), "installed": entry.id in present} for entry in entries().values()]


def archive(integration_id: str) -> bytes:
    """Return an integration's code as a deploy takes it; the same bytes for the same files."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for folder in (FOLDER / SHARED, FOLDER / integration_id):
            for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST):
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                with path.open("rb") as content:
                    tar.addfile(info, content)
    return buffer.getvalue()


def deploy(platform: Platform, actor: Actor, integration_id: str) -> str:
    """Install or upgrade an integration of the catalog and start its worker. Idempotent.

    Returns:
        The integration's webhook token, the same after every deploy.

    Raises:
        NotFound: it is not in the catalog.
        NotReady: no node is alive.
        Failed: its code does not start.
    """
    entry = entries().get(integration_id)
    if entry is None:
        raise NotFound(f"integration '{integration_id}' is not in the catalog")
    workers_service.require_node(platform)
    with platform.uow() as uow:
        fresh = not apps_service.exists(uow.session, integration_id)
        apps_service.install(uow, actor, entry.manifest)
        token = _token(uow, platform.cipher, integration_id)
    try:
        code = io.BytesIO(archive(integration_id))
        deploys.deploy(platform, actor, app_id=integration_id, archive=code)
    except AppError as exc:
        if fresh:
            _undo(platform, integration_id)
        if isinstance(exc, NotReady):
            raise
        raise Failed(f"deploy failed: {exc.message}") from exc
    return token


def _undo(platform: Platform, integration_id: str) -> None:
    with platform.uow() as uow:
        apps_service.uninstall(uow, integration_id)


def undeploy(platform: Platform, integration_id: str) -> None:
    """Stop and uninstall an integration with everything that was stored for it.

    Raises:
        NotFound: it is not installed.
    """
    with platform.uow() as uow:
        installed.require(uow.session, integration_id)
        apps_service.uninstall(uow, integration_id)
    apps_service.remove_directories(platform.settings.data_dir, integration_id)


def _token(uow: UnitOfWork, cipher: Cipher, integration_id: str) -> str:
    """Return the webhook token of an integration, making one if it has none."""
    token = vault.get(uow.session, cipher, integration_id, safe.WEBHOOK_TOKEN)
    if token is None:
        token = secrets.token_urlsafe(32)
        vault.put(uow.session, cipher, integration_id, safe.WEBHOOK_TOKEN, token)
    uow.emit(OwnWebhookNeeded(integration_id, digest(token)))
    return token
