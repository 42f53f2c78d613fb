"""Routes of magic links."""

from __future__ import annotations

from typing import Any

from flask import abort, request

from app.auth.magic_links import service
from app.auth.magic_links.schemas import LinkCreate, LinkOut, LinkQuery, LinkUse, SignedInOut
from app.auth.magic_links.service import SignedIn
from app.auth.routes import NO_STORE, CredentialView, redirect
from app.core.errors import Invalid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("magic_links", __name__, description="Sign-in by one-time links")

Body = dict[str, Any]  # Any: what the schema loaded


@blp.route(f"{PREFIX}/auth/magic-link/generate")
class Generation(View):
    """New links."""

    @gates.permission("auth.invite")
    @blp.arguments(LinkCreate)
    @blp.response(201, LinkOut)
    @blp.doc(summary="Make a link that signs a person in once")
    def post(self, body: Body) -> Any:
        """Make a link; whoever asked delivers it."""
        public_url = self.platform.settings.http.public_url
        return service.generate(self.uow, self.actor, public_url=public_url, **body), NO_STORE


@blp.route(f"{PREFIX}/auth/magic-link/consume")
class Consumption(CredentialView):
    """The use of a link."""

    transactional = False

    @gates.public
    @blp.arguments(LinkUse)
    @blp.response(200, SignedInOut)
    @blp.doc(summary="Sign in by a link")
    def post(self, body: Body) -> Any:
        """Return the tokens of a new session."""
        return self._consume(body["token"], in_browser=False), NO_STORE

    @gates.public
    @blp.arguments(LinkQuery, location="query")
    @blp.response(200, SignedInOut)
    @blp.alt_response(307, description="To the address given with the link")
    @blp.doc(summary="Sign in by a link in the browser")
    def get(self, query: Body) -> Any:
        """Hand the tokens over as the link says."""
        if request.method == "HEAD":
            # Programs that preview links must not use them up.
            abort(405)
        done = self._consume(query["token"], in_browser=True)
        if done.delivery.location is not None:
            return redirect(done.delivery.location)
        return done, NO_STORE

    def _consume(self, token: str, *, in_browser: bool) -> SignedIn:
        if not token:
            raise Invalid("field 'token' is required")
        return service.consume(
            self.platform.uow,
            self.platform.settings.auth,
            self.throttle,
            token=token,
            in_browser=in_browser,
            client_address=request.remote_addr,
        )
