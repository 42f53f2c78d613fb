"""RPC on the node's side: hand the calls over and return; answers go out by callback."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.actor import ANONYMOUS, Actor
from app.core.crypto import VaultError
from app.core.errors import INVALID_CREDENTIAL, NotFound, missing_permission
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.core.replies import Reply
from app.integrations import service as integrations_service
from app.workers import callers
from app.workers.host import CallOutcome, OutcomeKind
from app.workers.messages import CallRPC
from app.workers.rpc import NO_ACCOUNT, NO_APP, NO_KEY, NO_PERMISSION, Call
from tasks.base import task
from tasks.node import Node, current_node
from workers_runtime.protocol import CallKind

log = structlog.get_logger(__name__)

NO_DATABASE = "database not available"

Actors = dict[tuple[str, str, str], Actor | None]
Refusal = tuple[str, str]  # kind and text of an answer
Asked = tuple[Call, Actor | None, Refusal | None]


@task(CallRPC, direct=True)
def call(
    platform: Platform,
    app_id: str,
    reply_to: str,
    calls: list[list[Any]],  # Any: JSON values
) -> None:
    """Hand calls of one app to its process; no thread waits for their answers."""
    node = current_node()
    entries = [Call(*fields) for fields in calls]
    for entry in entries:
        node.outgoing.take(reply_to, entry.question)
    node.accept(lambda: _serve(platform, node, app_id, reply_to, entries))


def _serve(platform: Platform, node: Node, app_id: str, reply_to: str, entries: list[Call]) -> None:
    try:
        asked = _look_up(platform, node, app_id, entries)
    except SQLAlchemyError as exc:
        log.warning("calls_refused", app_id=app_id, reason=type(exc).__name__)
        for entry in entries:
            _answer(node, reply_to, entry.question, OutcomeKind.NOT_READY, NO_DATABASE)
        return
    with node.client.together():
        for entry, actor, refusal in asked:
            if refusal is None:
                _hand_over(node, app_id, reply_to, entry, actor)
            else:
                _answer(node, reply_to, entry.question, *refusal)


def _look_up(platform: Platform, node: Node, app_id: str, entries: list[Call]) -> list[Asked]:
    """Read the callers' rights and what is wanted of the app."""
    users = {UUID(entry.user_id) for entry in entries if entry.user_id}
    with platform.uow.reading() as session:
        found, wanted = callers.look_up(session, app_id, users)
        actors = _actors(session, entries, found)
        try:
            node.catalog.check(session, app_id, wanted)
            missing = ""
        except NotFound as exc:
            missing = exc.message
        return [
            _asked(platform, session, app_id, entry, actors[_identity(entry)], missing=missing)
            for entry in entries
        ]


def _asked(
    platform: Platform,
    session: Session,
    app_id: str,
    entry: Call,
    actor: Actor | None,
    *,
    missing: str,
) -> Asked:
    """Return a call as its process gets it, whose rights it has, and why it may not be made."""
    refusal = _refusal(entry.key, actor) or ((NO_APP, missing) if missing else None)
    if refusal is not None or not integrations_service.is_hook(entry.method):
        return entry, actor, refusal
    try:
        params = integrations_service.fill_call(
            session, platform.cipher, app_id=app_id, method=entry.method, params=entry.params
        )
        acting = integrations_service.acting_as(session, actor, app_id=app_id, method=entry.method)
    except NotFound as exc:
        return entry, actor, (NO_APP, exc.message)
    except VaultError as exc:
        return entry, actor, (OutcomeKind.ERROR.value, str(exc))
    return replace(entry, params=params), acting, None


def _actors(session: Session, entries: list[Call], users: Mapping[UUID, Actor]) -> Actors:
    """Return every caller with the rights it has now, among them these users."""
    actors: Actors = {}
    for entry in entries:
        key = _identity(entry)
        if key not in actors:
            actors[key] = _limited(_actor(session, entry, users), entry.app_scope)
    return actors


def _identity(entry: Call) -> tuple[str, str, str]:
    return entry.user_id, entry.app_scope, entry.share


def _actor(session: Session, entry: Call, users: Mapping[UUID, Actor]) -> Actor | None:
    if entry.share:
        return apps_service.share_actor(session, UUID(entry.share))
    if not entry.user_id:
        return ANONYMOUS
    return users.get(UUID(entry.user_id))


def _refusal(key: str, actor: Actor | None) -> Refusal | None:
    """Return kind and text of the answer to a caller who may not call the app."""
    if actor is None:
        return NO_ACCOUNT, INVALID_CREDENTIAL
    if key == NO_KEY or actor.can(key):
        return None
    return NO_PERMISSION, missing_permission(key).message


def _limited(actor: Actor | None, app_scope: str) -> Actor | None:
    """Return an actor with the rights a caller token limited to one app has."""
    if actor is None or not app_scope:
        return actor
    within = Permissions.of({f"app:{app_scope}:*"})
    permissions = actor.permissions.intersect(within)
    return replace(actor, permissions=permissions, app_scope=app_scope)


def _hand_over(node: Node, app_id: str, reply_to: str, entry: Call, actor: Actor | None) -> None:
    def answer(done: Future[CallOutcome]) -> None:
        outcome = done.result()
        node.outgoing.answer(reply_to, entry.question, lambda: _reply(node, app_id, entry, outcome))

    message = {"method": entry.method, "params": entry.params}
    lifetime_s = max(0.0, entry.deadline - time.time())
    node.call(app_id, CallKind.RPC, message, actor=actor, lifetime_s=lifetime_s).add_done_callback(
        answer
    )


def _answer(node: Node, reply_to: str, question: str, kind: str, text: str) -> None:
    reply = Reply(question, node.identity, kind, text)
    node.outgoing.answer(reply_to, question, lambda: reply)


def _reply(node: Node, app_id: str, entry: Call, outcome: CallOutcome) -> Reply:
    body = b""
    if outcome.ok:
        value = integrations_service.seal_answer(
            node.platform.cipher, app_id=app_id, method=entry.method, value=outcome.value
        )
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        body = text.encode("utf-8", "replace")
    return Reply(entry.question, node.identity, outcome.kind.value, outcome.error, body)
