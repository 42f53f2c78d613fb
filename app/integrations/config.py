"""The configuration of integrations: platform-wide, and named ones for further OAuth clients.

Source: REST contract part 40, sections 5.3 and 5.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.core.crypto import Cipher
from app.core.errors import Conflict, Invalid, NotFound
from app.core.ids import parse_uuid
from app.core.json_schema import violation
from app.core.uow import UnitOfWork
from app.integrations import repository, safe
from app.integrations.installed import Integration
from app.integrations.models import IntegrationConfig
from app.secrets import service as secrets_service

JSONObject = dict[str, Any]  # Any: JSON values


def resolve(
    session: Session, cipher: Cipher, integration: Integration, config_id: UUID | None = None
) -> JSONObject:
    """Return a whole configuration: defaults, plain settings, secrets.

    Raises:
        VaultError: a secret cannot be decrypted.
    """
    defaults = {n: rule["default"] for n, rule in integration.fields.items() if "default" in rule}
    return defaults | stored(session, cipher, integration, config_id)


def stored(
    session: Session, cipher: Cipher, integration: Integration, config_id: UUID | None = None
) -> JSONObject:
    """Return the fields an administrator has set.

    Raises:
        VaultError: a secret cannot be decrypted.
    """
    plain = repository.settings(session, integration.id, _key(config_id))
    if config_id is not None:
        return plain | safe.config_secrets(session, cipher, integration.id, config_id)
    secrets = {
        field: secrets_service.platform_secret(session, cipher, name)
        for field, name in integration.secrets.items()
    }
    return plain | {field: value for field, value in secrets.items() if value is not None}


def configured(
    session: Session, cipher: Cipher, integration: Integration, config_id: UUID | None = None
) -> bool:
    """Tell whether everything that must be set is set."""
    secrets = integration.secrets
    if not secrets:
        return True
    has = resolve(session, cipher, integration, config_id).keys()
    schema = integration.config_schema
    branches = schema.get("anyOf")
    if isinstance(branches, list) and branches:
        return any(has >= set(branch.get("required") or ()) for branch in branches)
    required = set(schema.get("required") or ())
    return has >= required if required else bool(has & secrets.keys())


def save(
    uow: UnitOfWork, cipher: Cipher, integration: Integration, values: Mapping[str, Any]
) -> None:
    """Change fields of the platform-wide configuration; absent ones stay.

    Raises:
        Invalid: a value does not fit its field.
    """
    plain = repository.settings(uow.session, integration.id)
    secrets = integration.secrets
    for field, value in _known(integration, values).items():
        if field in secrets:
            secrets_service.keep_platform_secret(uow, cipher, key=secrets[field], value=value)
        elif value is None:
            plain.pop(field, None)
        else:
            plain[field] = value
    repository.put_settings(uow.session, integration.id, plain)


def _known(integration: Integration, values: Mapping[str, Any]) -> JSONObject:
    """Return the fields of the schema that are given; empty text means: delete (None)."""
    known: JSONObject = {}
    for field, rule in integration.fields.items():
        if field not in values:
            continue
        value = None if values[field] == "" else values[field]
        if value is not None:
            _check(field, rule, value, secret=field in integration.secrets)
        known[field] = value
    return known


def _check(field: str, rule: Mapping[str, Any], value: Any, *, secret: bool) -> None:
    if secret and not isinstance(value, str):
        raise Invalid(f"config field '{field}': must be of type string")
    problem = violation(rule, value)
    if problem is not None:
        raise Invalid(f"config field '{field}': {problem[1]}")


# --- named configurations --------------------------------------------------------------------


def listed(session: Session, cipher: Cipher, integration: Integration) -> list[JSONObject]:
    """Return the named configurations, oldest first."""
    return [
        {
            "id": row.id,
            "label": row.label,
            "configured": configured(session, cipher, integration, row.id),
            "created_at": row.created_at,
        }
        for row in repository.configs(session, integration.id)
    ]


def create(
    uow: UnitOfWork,
    cipher: Cipher,
    integration: Integration,
    *,
    label: str,
    values: Mapping[str, Any],
) -> UUID:
    """Store a named configuration.

    Raises:
        Invalid: a value does not fit its field, or the label is empty.
        Conflict: the label is taken.
    """
    if not label.strip():
        raise Invalid("field 'label' must not be empty")
    known = {f: v for f, v in _known(integration, values).items() if v is not None}
    config_id = repository.add_config(uow.session, integration.id, label)
    if config_id is None:
        raise Conflict("a config with this label exists")
    secrets = {f: v for f, v in known.items() if f in integration.secrets}
    plain = {f: v for f, v in known.items() if f not in integration.secrets}
    safe.put_config_secrets(uow.session, cipher, integration.id, config_id, secrets)
    repository.put_settings(uow.session, integration.id, plain, str(config_id))
    return config_id


def require(session: Session, integration: Integration, config_id: str) -> IntegrationConfig:
    """Return a named configuration.

    Raises:
        Invalid: the id is not a UUID.
        NotFound: there is none of that id.
    """
    found = repository.config(session, integration.id, parse_uuid(config_id))
    if found is None:
        raise NotFound("config not found")
    return found


def delete(uow: UnitOfWork, integration: Integration, *, config_id: str) -> None:
    """Delete a named configuration.

    Raises:
        NotFound: there is none of that id.
        Invalid: connections use it.
    """
    found = require(uow.session, integration, config_id)
    users = repository.users_of_config(uow.session, found.id)
    if users:
        raise Invalid(f"{users} connection(s) still use this config")
    safe.forget_config(uow.session, integration.id, found.id)
    repository.remove_config(uow.session, integration.id, found.id)


def _key(config_id: UUID | None) -> str:
    return "" if config_id is None else str(config_id)
