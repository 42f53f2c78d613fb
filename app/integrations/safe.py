"""What integrations keep in the vault, and where.

Names with a dot are outside the grammar of secrets: they are never listed, deletable or handed to
a worker as a secret. They lie under the integration's own scope, so that an uninstall takes them
along.

Source: REST contract part 40, section 5.1; part 30, section 14.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from app.core import vault
from app.core.crypto import Cipher

WEBHOOK_TOKEN: Final = "_hook.token"  # noqa: S105 - the name of an entry

JSONObject = dict[str, Any]  # Any: JSON values


def credentials(
    session: Session, cipher: Cipher, integration_id: str, connection_id: UUID
) -> JSONObject | None:
    """Return the credentials of a connection.

    Raises:
        VaultError: they cannot be decrypted.
    """
    return _load(vault.get(session, cipher, integration_id, _connection(connection_id)))


def put_credentials(
    session: Session,
    cipher: Cipher,
    integration_id: str,
    connection_id: UUID,
    values: Mapping[str, Any],  # Any: JSON values
) -> None:
    """Store the credentials of a connection, replacing older ones."""
    name = _connection(connection_id)
    vault.put(session, cipher, integration_id, name, json.dumps(values))


def forget_credentials(session: Session, integration_id: str, connection_id: UUID) -> None:
    """Delete the credentials of a connection."""
    vault.delete(session, integration_id, _connection(connection_id))


def config_secrets(
    session: Session, cipher: Cipher, integration_id: str, config_id: UUID
) -> JSONObject:
    """Return the secret fields of a named configuration."""
    return _load(vault.get(session, cipher, integration_id, _config(config_id))) or {}


def put_config_secrets(
    session: Session,
    cipher: Cipher,
    integration_id: str,
    config_id: UUID,
    values: Mapping[str, Any],  # Any: JSON values
) -> None:
    """Store the secret fields of a named configuration."""
    vault.put(session, cipher, integration_id, _config(config_id), json.dumps(values))


def forget_config(session: Session, integration_id: str, config_id: UUID) -> None:
    """Delete the secret fields of a named configuration."""
    vault.delete(session, integration_id, _config(config_id))


def _connection(connection_id: UUID) -> str:
    return f"_conn.{connection_id}"


def _config(config_id: UUID) -> str:
    return f"_config.{config_id}"


def _load(text: str | None) -> JSONObject | None:
    if text is None:
        return None
    values: JSONObject = json.loads(text)
    return values
