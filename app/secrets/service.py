"""Secrets of apps and of the platform: set, list, delete, hand to processes.

Source: REST contract part 30, section 14.
"""

from __future__ import annotations

import json
import re
from typing import Final

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.apps.events import AppUninstalled
from app.core import vault
from app.core.crypto import Cipher, VaultError
from app.core.errors import Invalid, NotFound
from app.core.uow import UnitOfWork
from app.secrets import repository
from app.secrets.events import PlatformSecretChanged

PLATFORM_SCOPE: Final = "_platform"
FROZEN_SCOPE: Final = "_frozen"
MAX_VALUE_BYTES: Final = 64 * 1024
NAME = re.compile(r"[A-Za-z0-9_]{1,128}")
RESERVED_PREFIXES: Final = ("TRELLIS_", "ROOTCX_", "LD_", "DYLD_")
RESERVED_NAMES: Final = frozenset(
    {
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "PYTHONUNBUFFERED",
        "NODE_OPTIONS",
        "BASH_ENV",
        "ENV",
        "IFS",
    }
)


def set_app_secret(uow: UnitOfWork, cipher: Cipher, *, app_id: str, key: str, value: str) -> None:
    """Store a secret of an app; running processes keep the old value.

    Raises:
        Invalid: the name or the value breaks a rule.
        NotFound: the app is not installed.
    """
    _check(key, value)
    apps_service.require(uow.session, app_id)
    vault.put(uow.session, cipher, app_id, key, value)


def app_secret_names(session: Session, app_id: str) -> list[str]:
    """Return the names of an app's secrets, sorted.

    Raises:
        NotFound: the app is not installed.
    """
    apps_service.require(session, app_id)
    return repository.names(session, app_id)


def delete_app_secret(uow: UnitOfWork, *, app_id: str, key: str) -> None:
    """Delete a secret of an app.

    Raises:
        NotFound: no such app or secret.
    """
    apps_service.require(uow.session, app_id)
    if not (_is_name(key) and vault.delete(uow.session, app_id, key)):
        raise NotFound(f"secret '{key}' not found")


def set_platform_secret(uow: UnitOfWork, cipher: Cipher, *, key: str, value: str) -> int:
    """Store a secret that every app gets and return how many apps restart.

    Raises:
        Invalid: the name or the value breaks a rule.
    """
    _check(key, value)
    vault.put(uow.session, cipher, PLATFORM_SCOPE, key, value)
    return _changed(uow, cipher)


def platform_secret_names(session: Session) -> list[str]:
    """Return the names of the platform's secrets, sorted."""
    return repository.names(session, PLATFORM_SCOPE)


def delete_platform_secret(uow: UnitOfWork, cipher: Cipher, *, key: str) -> int:
    """Delete a secret of the platform and return how many apps restart.

    Raises:
        NotFound: there is none of that name.
    """
    if not (_is_name(key) and vault.delete(uow.session, PLATFORM_SCOPE, key)):
        raise NotFound(f"platform secret '{key}' not found")
    return _changed(uow, cipher)


def platform_secret(session: Session, cipher: Cipher, key: str) -> str | None:
    """Return the value of a platform secret, for a slice that hands it over itself.

    Raises:
        VaultError: it cannot be decrypted.
    """
    return vault.get(session, cipher, PLATFORM_SCOPE, key)


def keep_platform_secret(uow: UnitOfWork, cipher: Cipher, *, key: str, value: str | None) -> None:
    """Store a platform secret, or delete it (None), and restart nothing.

    For values that a slice hands over with every call; processes that read them from their
    environment see the new value at their next start.

    Raises:
        Invalid: the name or the value breaks a rule.
    """
    _check(key, value or "")
    if value is None:
        forget_platform_secret(uow, key=key)
    else:
        vault.put(uow.session, cipher, PLATFORM_SCOPE, key, value)


def forget_platform_secret(uow: UnitOfWork, *, key: str) -> None:
    """Delete a platform secret and restart nothing. Idempotent."""
    if _is_name(key):
        vault.delete(uow.session, PLATFORM_SCOPE, key)


def snapshot(session: Session, cipher: Cipher, app_id: str) -> dict[str, str]:
    """Return what a process of an app gets now: platform secrets, overlaid by the app's.

    Raises:
        VaultError: a value cannot be decrypted.
    """
    both = vault.get_all(session, cipher, PLATFORM_SCOPE)
    both |= vault.get_all(session, cipher, app_id)
    return {name: value for name, value in both.items() if _is_name(name)}


def platform_values(session: Session, cipher: Cipher) -> dict[str, str]:
    """Return the platform's secrets by name.

    Raises:
        VaultError: a value cannot be decrypted.
    """
    values = vault.get_all(session, cipher, PLATFORM_SCOPE)
    return {name: value for name, value in values.items() if _is_name(name)}


def freeze(session: Session, cipher: Cipher, app_id: str) -> None:
    """Keep today's snapshot as what processes of the app's current generation get.

    Called whenever the generation rises, so that processes started later on other nodes agree
    with the older ones. When a value cannot be decrypted nothing is kept, and ``frozen`` raises.
    """
    try:
        values = json.dumps(snapshot(session, cipher, app_id))
    except VaultError:
        vault.delete(session, FROZEN_SCOPE, app_id)
        return
    vault.put(session, cipher, FROZEN_SCOPE, app_id, values)


def frozen(session: Session, cipher: Cipher, app_id: str) -> dict[str, str]:
    """Return the snapshot of the app's current generation.

    Raises:
        VaultError: it cannot be decrypted.
    """
    kept = vault.get(session, cipher, FROZEN_SCOPE, app_id)
    if kept is None:
        return snapshot(session, cipher, app_id)
    values: dict[str, str] = json.loads(kept)
    return values


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Delete the secrets of an app that was uninstalled."""
    vault.delete_scope(uow.session, event.app_id)
    vault.delete(uow.session, FROZEN_SCOPE, event.app_id)


def _changed(uow: UnitOfWork, cipher: Cipher) -> int:
    event = PlatformSecretChanged()
    uow.emit(event)
    for app_id in event.restarting:
        freeze(uow.session, cipher, app_id)
    return len(event.restarting)


def _is_name(key: str) -> bool:
    return NAME.fullmatch(key) is not None


def _check(key: str, value: str) -> None:
    if not _is_name(key):
        raise Invalid("key must be 1-128 letters, digits or underscores")
    if key in RESERVED_NAMES or key.startswith(RESERVED_PREFIXES):
        raise Invalid(f"key '{key}' is reserved")
    if "\0" in value or len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
        raise Invalid("invalid value")
