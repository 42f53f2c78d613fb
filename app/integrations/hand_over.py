"""From the platform to an integration's worker and back, with no secret on the broker.

A call travels to its node as ids. The node replaces them by the configuration and the credentials
they name right before the app process gets the call (``fill``). What may be secret but lies in no
row is sealed with the vault's key: one-time codes on the way out, new credentials on the way back.

Source: REST contract part 40, section 5.1; ADR 0013.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.crypto import Cipher, VaultError
from app.core.errors import Failed, NotReady
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.integrations import config, installed, safe
from app.workers import rpc
from app.workers.service import OutcomeKind, WorkerHost
from workers_runtime.protocol import CallKind

ACTION: Final = "__integration"
AUTH_START: Final = "__auth_start"
AUTH_CALLBACK: Final = "__auth_callback"
WEBHOOK: Final = "__webhook"
BIND: Final = "__bind"
HOOKS: Final = frozenset({ACTION, AUTH_START, AUTH_CALLBACK, WEBHOOK, BIND})
VERBS: Final = ("create", "read", "update", "delete")
SEALED_ANSWERS: Final = frozenset({AUTH_CALLBACK, BIND})
ANSWER_MARGIN_S: Final = 5.0

JSONObject = dict[str, Any]  # Any: JSON values


class HookFailed(Failed):
    """A worker method of an integration raised, crashed or took too long.

    Attributes:
        timed_out: it took too long.
    """

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


def run(
    platform: Platform,
    actor: Actor | None,
    *,
    integration_id: str,
    method: str,
    params: JSONObject,
    key: str = "",
    host: WorkerHost | None = None,
) -> Any:  # Any: a JSON value
    """Call a worker method of an integration and return what it returned.

    Args:
        platform: the process's platform.
        actor: whose rights the call has; None: nobody's.
        integration_id: an installed integration.
        method: one of the names above.
        params: parameters, with ``configId`` and ``connectionId`` for what they name.
        key: the permission the node checks once more; empty: none.
        host: this process's node, if it is one; else any node is asked.

    Raises:
        HookFailed: with the handler's text.
        NotReady: no process, node or Redis to ask.
    """
    if host is not None:
        with platform.uow.reading() as session:
            filled = fill(session, platform.cipher, integration_id, method, params)
            acting = with_records(session, actor, integration_id, method)
        message: JSONObject = {"id": uuid4().hex, "method": method, "params": filled}
        return _here(platform, host, acting, integration_id, message)
    limit_s = platform.settings.workers.rpc_timeout.total_seconds()
    try:
        answer = rpc.call(
            platform,
            # A caller token's limit to one app was applied before; the call itself is not part
            # of that app.
            replace(actor, app_scope=None) if actor is not None else Actor(user_id=None),
            app_id=integration_id,
            method=method,
            params=params,
            key=key,
            authorize=lambda: None,
        )
    except Failed as exc:
        late = exc.message == rpc.timeout_text(limit_s)
        raise HookFailed(exc.message, timed_out=late) from exc
    value = json.loads(answer)
    if method in SEALED_ANSWERS:
        return _open(platform.cipher, integration_id, value)
    return value


def _here(
    platform: Platform,
    host: WorkerHost,
    actor: Actor | None,
    integration_id: str,
    message: JSONObject,
) -> Any:  # Any: a JSON value
    limit_s = platform.settings.workers.rpc_timeout.total_seconds()
    future = host.call(integration_id, CallKind.RPC, message, actor=actor, lifetime_s=limit_s)
    try:
        outcome = future.result(limit_s + ANSWER_MARGIN_S)
    except FutureTimeout as exc:
        raise HookFailed(rpc.timeout_text(limit_s), timed_out=True) from exc
    if outcome.ok:
        return outcome.value
    if outcome.kind in rpc.NOT_READY_KINDS:
        raise NotReady(outcome.error)
    raise HookFailed(outcome.error, timed_out=outcome.kind is OutcomeKind.TIMEOUT)


# --- on the node -----------------------------------------------------------------------------


def is_hook(method: str) -> bool:
    """Tell whether a method is one of those that the platform calls in integrations."""
    return method in HOOKS


def fill(
    session: Session, cipher: Cipher, integration_id: str, method: str, params: Mapping[str, Any]
) -> JSONObject:
    """Replace the ids of a call by what they name.

    Raises:
        NotFound: the integration is gone.
        VaultError: something cannot be decrypted.
    """
    integration = installed.require(session, integration_id)
    filled = dict(params)
    config_id = filled.pop("configId", None)
    filled["config"] = config.resolve(
        session, cipher, integration, None if config_id is None else UUID(config_id)
    )
    if method == ACTION:
        connection_id = filled.get("connectionId")
        filled["userCredentials"] = (
            None
            if connection_id is None
            else safe.credentials(session, cipher, integration_id, UUID(connection_id))
        )
    if "sealed" in filled:
        filled.update(_open(cipher, integration_id, filled.pop("sealed")))
    return filled


def with_records(
    session: Session, actor: Actor | None, integration_id: str, method: str
) -> Actor | None:
    """Return who an action runs as: the caller, who may also use the integration's own records.

    Through the integration's code only. As permissions of their own they would open everybody's
    records to whoever runs an action.

    Raises:
        NotFound: the integration is gone.
    """
    if actor is None or method != ACTION:
        return actor
    entities = installed.require(session, integration_id).entities
    own = {f"app:{integration_id}:{name}.{verb}" for name in entities for verb in VERBS}
    return replace(actor, permissions=Permissions.of(actor.permissions.keys | own))


def seal(cipher: Cipher, integration_id: str, value: Any) -> str:  # Any: a JSON value
    """Return a JSON value encrypted for the way over the broker."""
    nonce, text = cipher.encrypt(integration_id, "_transit", json.dumps(value))
    return base64.b64encode(nonce + text).decode()


def _open(cipher: Cipher, integration_id: str, text: Any) -> Any:  # Any: JSON values
    try:
        raw = base64.b64decode(text, validate=True)
        return json.loads(cipher.decrypt(integration_id, "_transit", raw[:12], raw[12:]))
    except (TypeError, ValueError, VaultError) as exc:
        raise HookFailed("answer could not be read", timed_out=False) from exc
