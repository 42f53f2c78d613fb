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
from app.core.errors import NotFound, missing_permission
from app.core.permissions import Permissions
from app.core.platform import Platform
from app.core.replies import Reply
from app.http.authentication import INVALID
from app.rbac import service as rbac_service
from app.workers.host import CallOutcome
from app.workers.messages import CallRPC
from app.workers.rpc import NO_ACCOUNT, NO_APP, NO_KEY, NO_PERMISSION, Call
from tasks.base import task
from tasks.node import Node, current_node
from workers_runtime.protocol import CallKind

Actors = dict[tuple[str, str], Actor | None]


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
    for entry in entries:
        actor = actors[entry.user_id, entry.app_scope]
        refusal = _refusal(entry.key, actor) or ((NO_APP, missing) if missing else None)
        if refusal is None:
            _hand_over(node, app_id, reply_to, entry, actor)
        else:
            _answer(node, reply_to, entry.question, *refusal)


def _actors(session: Session, entries: list[Call]) -> Actors:
    """Read the rights of every caller, as they are now."""
    actors: Actors = {}
    for entry in entries:
        key = (entry.user_id, entry.app_scope)
        if key not in actors:
            actor = rbac_service.load_actor(session, UUID(entry.user_id))
            actors[key] = _limited(actor, entry.app_scope)
    return actors


def _refusal(key: str, actor: Actor | None) -> tuple[str, str] | None:
    """Return kind and text of the answer to a caller who may not call the app."""
    if actor is None:
        return NO_ACCOUNT, INVALID
    allowed = key == NO_KEY or actor.can(key)
    return None if allowed else (NO_PERMISSION, missing_permission(key).message)


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
        node.outgoing.answer(
            reply_to, entry.question, lambda: _reply(node, entry.question, outcome)
        )

    message = {"method": entry.method, "params": entry.params}
    lifetime_s = max(0.0, entry.deadline - time.time())
    node.call(app_id, CallKind.RPC, message, actor=actor, lifetime_s=lifetime_s).add_done_callback(
        answer
    )


def _answer(node: Node, reply_to: str, question: str, kind: str, text: str) -> None:
    reply = Reply(question, node.identity, kind, text)
    node.outgoing.answer(reply_to, question, lambda: reply)


def _reply(node: Node, question: str, outcome: CallOutcome) -> Reply:
    body = b""
    if outcome.ok:
        text = json.dumps(outcome.value, separators=(",", ":"), ensure_ascii=False)
        body = text.encode("utf-8", "replace")
    return Reply(question, node.identity, outcome.kind.value, outcome.error, body)
