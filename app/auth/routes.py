"""Routes of accounts and sessions."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from app.auth import removal, service
from app.auth.passwords import PasswordHasher, hasher
from app.auth.schemas import (
    AccessToken,
    LoggedIn,
    Login,
    ModeOut,
    RefreshToken,
    Register,
    Registered,
    UserOut,
)
from app.auth.throttle import Throttle
from app.core.ids import parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("auth", __name__, description="Accounts, sessions and users")

NO_STORE = {"Cache-Control": "no-store"}
Body = dict[str, Any]  # Any: what the schema loaded


def redirect(location: str) -> Response:
    """Send the browser on without telling the next page where it came from."""
    return Response(
        status=307,
        headers={"Location": location, "Referrer-Policy": "no-referrer", **NO_STORE},
    )


class CredentialView(View):
    """A view that is shown a credential."""

    @property
    def throttle(self) -> Throttle:
        """The brake on guessing."""
        return Throttle(self.platform.redis, enabled=self.platform.settings.auth.throttle)


class PasswordView(CredentialView):
    """A view that works with passwords: no transaction is open while one is hashed."""

    transactional = False

    @property
    def hasher(self) -> PasswordHasher:
        """The hasher of this process."""
        return hasher(self.platform.settings.auth.hash_concurrency)


@blp.route(f"{PREFIX}/auth/register")
class Registration(PasswordView):
    """New accounts."""

    @gates.public
    @blp.arguments(Register)
    @blp.response(201, Registered)
    @blp.doc(summary="Register with a password")
    def post(self, body: Body) -> Any:
        """Create an account; the first one becomes administrator."""
        user = service.register(
            self.platform.uow,
            self.platform.settings.auth,
            self.hasher,
            client_address=request.remote_addr,
            **body,
        )
        return {"user": user}


@blp.route(f"{PREFIX}/auth/login")
class LoginView(PasswordView):
    """Sign-in by password."""

    @gates.public
    @blp.arguments(Login)
    @blp.response(200, LoggedIn)
    @blp.doc(summary="Sign in with a password")
    def post(self, body: Body) -> Any:
        """Begin a session."""
        found = service.login(
            self.platform.uow,
            self.platform.settings.auth,
            self.hasher,
            self.throttle,
            client_address=request.remote_addr,
            **body,
        )
        return found, NO_STORE


@blp.route(f"{PREFIX}/auth/refresh")
class Refresh(CredentialView):
    """New access tokens."""

    @gates.public
    @blp.arguments(RefreshToken)
    @blp.response(200, AccessToken)
    @blp.doc(summary="Get a new access token")
    def post(self, body: Body) -> Any:
        """Return a new access token for a live session."""
        with self.throttle.attempt(request.remote_addr):
            return service.refresh(self.uow, self.platform.settings.auth, **body), NO_STORE


@blp.route(f"{PREFIX}/auth/logout")
class Logout(View):
    """The end of a session."""

    @gates.public
    @blp.arguments(RefreshToken)
    @blp.response(200, MessageOut)
    @blp.doc(summary="End a session")
    def post(self, body: Body) -> Any:
        """End the session of the refresh token; a repeat is fine."""
        service.logout(self.uow, self.platform.settings.auth, **body)
        return {"message": "logged out"}


@blp.route(f"{PREFIX}/auth/me")
class Me(View):
    """The caller."""

    @gates.signed_in
    @blp.response(200, UserOut)
    @blp.doc(summary="Show who one is")
    def get(self) -> Any:
        """Return the caller."""
        return service.me(self.uow.session, self.actor)


@blp.route(f"{PREFIX}/auth/mode")
class ModeView(View):
    """How one may sign in."""

    @gates.public
    @blp.response(200, ModeOut)
    @blp.doc(summary="Show how one may sign in")
    def get(self) -> Any:
        """Return what a login page needs to know."""
        return service.mode(self.uow.session, self.platform.settings.auth)


@blp.route(f"{PREFIX}/users")
class Users(View):
    """The humans of the installation."""

    @gates.signed_in
    @blp.response(200, UserOut(many=True))
    @blp.doc(summary="List users")
    def get(self) -> Any:
        """Return all humans by address."""
        return service.list_humans(self.uow.session)


@blp.route(f"{PREFIX}/users/<user_id>")
class UserView(View):
    """One human."""

    @gates.admin
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a user")
    def delete(self, user_id: str) -> Any:
        """Delete a human."""
        removal.delete_user(self.uow, self.actor, user_id=parse_uuid(user_id))
        return {"message": "user deleted"}
