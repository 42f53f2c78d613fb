"""RPC on the node's side: hand the calls over and return; answers go out by callback."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any
from uuid import UUID

from celery.worker.request import Request
from sqlalchemy.orm import Session

from app.core.actor import Actor
from app.core.crypto import VaultError
from app.core.errors import NotFound, missing_permission
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.core.replies import Reply
from app.http.authentication import INVALID
from app.integrations import service as integrations_service
from app.rbac import service as rbac_service
from app.workers.host import CallOutcome, OutcomeKind
from app.workers.messages import CallRPC
from app.workers.rpc import NO_ACCOUNT, NO_APP, NO_KEY, NO_PERMISSION, Call
from tasks.base import task
from tasks.node import Node, current_node
from workers_runtime.protocol import CallKind

Actors = dict[tuple[str, str], Actor | None]
Refusal = tuple[str, str]  # kind and text of an answer


class Unacknowledged(Request):
    """A request whose queue wants no acknowledgement; Celery would send one all the same."""

    def acknowledge(self) -> None:
        """Count it as acknowledged."""
        self.acknowledged = True


@task(CallRPC, acks_late=False, Request=Unacknowledged)
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
    with platform.uow.reading() as session:
        actors = _actors(session, entries)
        try:
            node.catalog.read(session, app_id)
            missing = ""
        except NotFound as exc:
            missing = exc.message
        asked = [
            _asked(platform, session, app_id, entry, actors, missing=missing) for entry in entries
        ]
    for entry, actor, refusal in asked:
        if refusal is None:
            _hand_over(node, app_id, reply_to, entry, actor)
        else:
            _answer(node, reply_to, entry.question, *refusal)


def _asked(
    platform: Platform,
    session: Session,
    app_id: str,
    entry: Call,
    actors: Actors,
    *,
    missing: str,
) -> tuple[Call, Actor | None, Refusal | None]:
    """Return a call as its process gets it, whose rights it has, and why it may not be made."""
    actor = actors[entry.user_id, entry.app_scope]
    refusal = _refusal(entry, actor) or ((NO_APP, missing) if missing else None)
    if refusal is not None or not integrations_service.is_hook(entry.method):
        return entry, actor, refusal
    try:
        params = integrations_service.fill_call(
            session, platform.cipher, app_id=app_id, method=entry.method, params=entry.params
        )
    except NotFound as exc:
        return entry, actor, (NO_APP, exc.message)
    except VaultError as exc:
        return entry, actor, (OutcomeKind.ERROR.value, str(exc))
    return replace(entry, params=params), actor, None


def _actors(session: Session, entries: list[Call]) -> Actors:
    """Read the rights of every caller, as they are now."""
    actors: Actors = {}
    for entry in entries:
        key = (entry.user_id, entry.app_scope)
        if not entry.user_id:
            actors[key] = None
        elif key not in actors:
            actor = rbac_service.load_actor(session, UUID(entry.user_id))
            actors[key] = _limited(actor, entry.app_scope)
    return actors


def _refusal(entry: Call, actor: Actor | None) -> Refusal | None:
    """Return kind and text of the answer to a caller who may not make a call."""
    if not entry.user_id and entry.key == NO_KEY:
        return None
    if actor is None:
        return NO_ACCOUNT, INVALID
    if entry.key == NO_KEY or actor.can(entry.key):
        return None
    return NO_PERMISSION, missing_permission(entry.key).message


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
