"""The base of every view: gate, unit of work, commit."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import current_app, request
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from sqlalchemy.orm import Session

from app.core.actor import ANONYMOUS, Actor
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.http.authentication import ActorLoader, authenticate, claimed
from app.http.gates import Gate, gate_of

PLATFORM = "trellis"
ACTOR_LOADER = "trellis.actor_loader"


def current_platform() -> Platform:
    """Return the platform of the running Flask app."""
    platform: Platform = current_app.extensions[PLATFORM]
    return platform


class View(MethodView):
    """A resource whose methods run inside one unit of work.

    ``self.actor`` is who asks; ``self.uow`` is the open unit of work, committed after the
    response was built. A view that streams or calls out sets ``transactional = False``: its
    methods then open short units of work from ``self.platform.uow`` themselves.
    """

    transactional: ClassVar[bool] = True
    uow: UnitOfWork
    actor: Actor
    platform: Platform

    def dispatch_request(self, **path: Any) -> ResponseReturnValue:  # Any: path converters
        """Check the gate, run the method, commit."""
        self.platform = current_platform()
        if not self.transactional:
            self._admit_alone(path)
            return super().dispatch_request(**path)
        with self.platform.uow() as uow:
            self.actor = self._admit(uow.session, path)
            self.uow = uow
            return super().dispatch_request(**path)

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
        return authenticate(request, session, load_actor)

    def _admit_alone(self, path: dict[str, Any]) -> None:  # Any: path converters
        gate = self._gate()
        if gate.deferred:
            self.actor = claimed(request)
        elif gate.public:
            self.actor = ANONYMOUS
        else:
            self.authorize(**path)

    def _gate(self) -> Gate:
        name = "get" if request.method == "HEAD" else request.method.lower()
        return gate_of(getattr(self, name))

    def _admit(self, session: Session, path: dict[str, Any]) -> Actor:  # Any: path converters
        gate = self._gate()
        if gate.public:
            return ANONYMOUS
        actor = self.authenticate(session)
        if gate.check is not None:
            gate.check(actor, path)
        return actor
