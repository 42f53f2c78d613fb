"""Routes of single sign-on."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask import request

from app.auth import service as accounts_service
from app.auth.oidc import providers, service
from app.auth.oidc.client import ProviderClient
from app.auth.oidc.schemas import (
    AuthorizeQuery,
    CallbackOut,
    CallbackQuery,
    ForceQuery,
    NonceExchange,
    ProviderIn,
    TokenExchange,
)
from app.auth.routes import NO_STORE, CredentialView, redirect
from app.auth.schemas import AccessToken, ProviderButtonOut
from app.core.outgoing import IPNetwork, Outgoing
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("oidc", __name__, description="Single sign-on")

Body = dict[str, Any]  # Any: what the schema loaded


@cache
def provider_client(networks: tuple[IPNetwork, ...]) -> ProviderClient:
    """Return the client of this process, with its caches."""
    return ProviderClient(Outgoing(networks))


class OIDCView(View):
    """A view that may call a provider: no transaction is open meanwhile."""

    transactional = False

    @property
    def deps(self) -> service.SignIn:
        """What sign-in needs."""
        platform = self.platform
        return service.SignIn(
            open_uow=platform.uow,
            auth=platform.settings.auth,
            cipher=platform.cipher,
            client=provider_client(platform.settings.http.outgoing_networks),
            public_url=platform.settings.http.public_url,
        )


@blp.route(f"{PREFIX}/auth/oidc/providers")
class Providers(OIDCView):
    """Identity providers."""

    @gates.public
    @blp.response(200, ProviderButtonOut(many=True))
    @blp.doc(summary="List the providers one may sign in through")
    def get(self) -> Any:
        """Return enabled providers by id."""
        with self.platform.uow() as uow:
            return accounts_service.buttons(uow.session)

    @gates.admin
    @blp.arguments(ProviderIn)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Create or replace a provider")
    def post(self, body: Body) -> Any:
        """Save a provider."""
        deps = self.deps
        providers.save(deps.open_uow, deps.cipher, deps.client, self.actor, **body)
        return {"message": f"provider '{body['provider_id']}' saved"}


@blp.route(f"{PREFIX}/auth/oidc/providers/<provider_id>")
class Provider(View):
    """One identity provider."""

    @gates.admin
    @blp.arguments(ForceQuery, location="query")
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a provider")
    def delete(self, query: Body, provider_id: str) -> Any:
        """Delete a provider; users stay."""
        client = provider_client(self.platform.settings.http.outgoing_networks)
        force = query["force"] == "true"
        providers.delete(self.uow, client, self.actor, provider_id=provider_id, force=force)
        return {"message": f"provider '{provider_id}' deleted"}


@blp.route(f"{PREFIX}/auth/oidc/<provider_id>/authorize")
class Authorize(OIDCView):
    """The start of a browser sign-in."""

    @gates.public
    @blp.arguments(AuthorizeQuery, location="query")
    @blp.response(307, description="To the provider's login page")
    @blp.doc(summary="Begin a sign-in in the browser")
    def get(self, query: Body, provider_id: str) -> Any:
        """Send the browser to the provider."""
        return redirect(service.authorize(self.deps, provider_id=provider_id, **query))


@blp.route(f"{PREFIX}/auth/oidc/callback")
class Callback(OIDCView):
    """The end of a browser sign-in."""

    @gates.public
    @blp.arguments(CallbackQuery, location="query")
    @blp.response(200, CallbackOut)
    @blp.alt_response(307, description="To the address given at the start")
    @blp.doc(summary="Finish a sign-in in the browser")
    def get(self, query: Body) -> Any:
        """Hand the tokens over."""
        done = service.finish(self.deps, **query)
        if done.location is not None:
            return redirect(done.location)
        return done.tokens, NO_STORE


@blp.route(f"{PREFIX}/auth/oidc/token-exchange")
class TokenExchangeView(OIDCView):
    """Sign-in by a back end that has an ID token already."""

    @gates.public
    @blp.arguments(TokenExchange)
    @blp.response(200, AccessToken)
    @blp.doc(summary="Swap an ID token for an access token")
    def post(self, body: Body) -> Any:
        """Return an access token; no session begins."""
        return service.exchange_token(self.deps, **body), NO_STORE


@blp.route(f"{PREFIX}/auth/nonce-exchange")
class NonceExchangeView(CredentialView):
    """The last step of a browser sign-in with nonce delivery."""

    @gates.public
    @blp.arguments(NonceExchange)
    @blp.response(200, CallbackOut)
    @blp.doc(summary="Swap a one-time nonce for tokens")
    def post(self, body: Body) -> Any:
        """Return the tokens of the session."""
        with self.throttle.attempt(request.remote_addr):
            return service.exchange_nonce(self.uow, self.platform.settings.auth, **body), NO_STORE
