"""The base of every view: gate, unit of work, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from flask import Request, current_app, request
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from sqlalchemy.orm import Session
from werkzeug.exceptions import HTTPException

from app.core.actor import ANONYMOUS, Actor
from app.core.errors import AppError, Outdated
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.http.authentication import ActorLoader, authenticate, claimed, recalled
from app.http.gates import Gate, gate_of
from app.http.nobody import brake, is_nobody

PLATFORM = "trellis"
ACTOR_LOADER = "trellis.actor_loader"
ACTOR_RECALLER = "trellis.actor_recaller"


def current_platform() -> Platform:
    """Return the platform of the running Flask app."""
    platform: Platform = current_app.extensions[PLATFORM]
    return platform


class View(MethodView):
    """A resource whose methods run inside one unit of work.

    ``self.actor`` is who asks; ``self.uow`` is the open unit of work, committed after the
    response was built. A view that streams or calls out sets ``transactional = False``: its
    methods then open short units of work from ``self.platform.uow`` themselves.

    A method whose gate says ``by_memory`` is tried without a unit of work first, with the rights
    this process remembers; ``self.by_memory`` tells it. It does its work in a statement that
    checks what it relies on, or raises ``Outdated``. Any error before that, the gate's included,
    may be due to an old memory: then all is done again the usual way.
    """

    transactional: ClassVar[bool] = True
    by_memory: bool = False
    uow: UnitOfWork
    actor: Actor
    platform: Platform
    request: Request
    gate: Gate

    def dispatch_request(self, **path: Any) -> ResponseReturnValue:  # Any: path converters
        """Check the gate, run the method, commit."""
        self.platform = current_platform()
        # Each use of Flask's proxy of it looks for it anew.
        self.request = asked = request._get_current_object()  # type: ignore[attr-defined]
        name = "get" if asked.method == "HEAD" else asked.method.lower()
        method: Callable[..., ResponseReturnValue] = getattr(self, name)
        self.gate = gate = gate_of(method)
        if gate.nobody and is_nobody(asked):
            brake(self.platform, asked)
        if not self.transactional:
            self._admit_alone(path)
            return method(**path)
        if gate.by_memory:
            try:
                self._recall(path)
                return method(**path)
            except (Outdated, AppError, HTTPException):
                self.by_memory = False
        with self.platform.uow() as uow:
            self.actor = self._admit(uow.session, path)
            self.uow = uow
            return method(**path)

    def authorize(self, **path: Any) -> None:  # Any: path converters
        """Read the caller's rights and check the gate; for views with a deferred gate.

        Raises:
            Unauthenticated: the principal is gone or disabled.
            Forbidden: the gate refuses it.
        """
        with self.platform.uow.reading() as session:
            self.actor = self._admit(session, path)

    def authenticate(self, session: Session) -> Actor:
        """Return who sends the request; for views that let some callers in without a token.

        Raises:
            Unauthenticated: nobody the platform knows.
        """
        load_actor: ActorLoader = current_app.extensions[ACTOR_LOADER]
        return authenticate(self.request, session, load_actor)

    def _recall(self, path: dict[str, Any]) -> None:  # Any: as above
        actor = recalled(self.request, current_app.extensions[ACTOR_RECALLER])
        if actor is None:
            raise Outdated
        if self.gate.check is not None:
            self.gate.check(actor, path)
        self.actor = actor
        self.by_memory = True

    def _admit_alone(self, path: dict[str, Any]) -> None:  # Any: path converters
        gate = self.gate
        if gate.public or (gate.nobody and is_nobody(self.request)):
            self.actor = ANONYMOUS
        elif gate.deferred:
            self.actor = claimed(self.request)
        else:
            self.authorize(**path)

    def _admit(self, session: Session, path: dict[str, Any]) -> Actor:  # Any: path converters
        gate = self.gate
        if gate.public or (gate.nobody and is_nobody(self.request)):
            return ANONYMOUS
        actor = self.authenticate(session)
        if gate.check is not None:
            gate.check(actor, path)
        return actor
