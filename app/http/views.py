"""The base of every view: gate, unit of work, commit."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import current_app, request
from flask.typing import ResponseReturnValue
from flask.views import MethodView

from app.core.actor import ANONYMOUS, Actor
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.http.authentication import ActorLoader, authenticate
from app.http.gates import gate_of

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
        with self.platform.uow() as uow:
            self.actor = self._admit(uow, path)
            if self.transactional:
                self.uow = uow
                return super().dispatch_request(**path)
        return super().dispatch_request(**path)

    def _admit(self, uow: UnitOfWork, path: dict[str, Any]) -> Actor:  # Any: path converters
        name = "get" if request.method == "HEAD" else request.method.lower()
        gate = gate_of(getattr(self, name))
        if gate.public:
            return ANONYMOUS
        load_actor: ActorLoader = current_app.extensions[ACTOR_LOADER]
        actor = authenticate(request, uow.session, load_actor)
        if gate.check is not None:
            gate.check(actor, path)
        return actor
