"""Routes of service accounts and the client credentials grant."""

from __future__ import annotations

from typing import Any

from flask import request

from app.auth.routes import NO_STORE, CredentialView
from app.auth.service_accounts import credentials, service
from app.auth.service_accounts.schemas import (
    AccountCreate,
    AccountCreated,
    AccountOut,
    AccountState,
    ActAs,
    ClientToken,
    CredentialCreate,
    CredentialCreated,
    CredentialOut,
    NewOwner,
    OwnerOut,
    TokenRequest,
)
from app.core.ids import parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("service_accounts", __name__, description="Principals of programs")

ACCOUNTS = f"{PREFIX}/service-accounts"
Body = dict[str, Any]  # Any: what the schema loaded

managed = gates.permission("admin:service_accounts.manage")


@blp.route(ACCOUNTS)
class Accounts(View):
    """All service accounts."""

    @managed
    @blp.arguments(AccountCreate)
    @blp.response(201, AccountCreated)
    @blp.doc(summary="Create a service account")
    def post(self, body: Body) -> Any:
        """Add an account without roles."""
        return service.create(self.uow, self.actor, **body)

    @managed
    @blp.response(200, AccountOut(many=True))
    @blp.doc(summary="List service accounts")
    def get(self) -> Any:
        """Return the accounts by address."""
        return service.list_all(self.uow.session)


@blp.route(f"{ACCOUNTS}/<account_id>")
class Account(View):
    """One service account."""

    @managed
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a service account")
    def delete(self, account_id: str) -> Any:
        """Delete an account with its keys."""
        service.delete(self.uow, self.actor, account_id=parse_uuid(account_id))
        return {"message": "service account deleted"}


@blp.route(f"{ACCOUNTS}/<account_id>/disable")
class Disable(View):
    """An account switched off."""

    @managed
    @blp.response(200, AccountState)
    @blp.doc(summary="Disable a service account")
    def post(self, account_id: str) -> Any:
        """Take its authority at once."""
        wanted = parse_uuid(account_id)
        return service.set_disabled(self.uow, self.actor, account_id=wanted, disabled=True)


@blp.route(f"{ACCOUNTS}/<account_id>/enable")
class Enable(View):
    """An account switched on."""

    @managed
    @blp.response(200, AccountState)
    @blp.doc(summary="Enable a service account")
    def post(self, account_id: str) -> Any:
        """Give its authority back."""
        wanted = parse_uuid(account_id)
        return service.set_disabled(self.uow, self.actor, account_id=wanted, disabled=False)


@blp.route(f"{ACCOUNTS}/<account_id>/credentials")
class Credentials(View):
    """Keys of an account."""

    @managed
    @blp.arguments(CredentialCreate)
    @blp.response(201, CredentialCreated)
    @blp.doc(summary="Create a key of a service account")
    def post(self, body: Body, account_id: str) -> Any:
        """Make another key; it is shown in this answer only."""
        made = service.add_credential(
            self.uow, self.actor, account_id=parse_uuid(account_id), **body
        )
        return made, NO_STORE

    @managed
    @blp.response(200, CredentialOut(many=True))
    @blp.doc(summary="List the keys of a service account")
    def get(self, account_id: str) -> Any:
        """Return what is kept of its keys, newest first."""
        return service.list_credentials(self.uow.session, account_id=parse_uuid(account_id))


@blp.route(f"{ACCOUNTS}/<account_id>/credentials/<credential_id>")
class Credential(View):
    """One key."""

    @managed
    @blp.response(200, MessageOut)
    @blp.doc(summary="Revoke a key of a service account")
    def delete(self, account_id: str, credential_id: str) -> Any:
        """End a key."""
        service.revoke_credential(
            self.uow,
            self.actor,
            account_id=parse_uuid(account_id),
            credential_id=parse_uuid(credential_id),
        )
        return {"message": "credential revoked"}


@blp.route(f"{ACCOUNTS}/<account_id>/transfer-ownership")
class Ownership(View):
    """Who answers for an account."""

    @managed
    @blp.arguments(NewOwner)
    @blp.response(200, OwnerOut)
    @blp.doc(summary="Give a service account another owner of record")
    def post(self, body: Body, account_id: str) -> Any:
        """Name a human who answers for the account."""
        return service.transfer(self.uow, self.actor, account_id=parse_uuid(account_id), **body)


@blp.route(f"{ACCOUNTS}/<account_id>/act-as")
class ActingAs(View):
    """Who may order work in an account's name."""

    @managed
    @blp.arguments(ActAs)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Let a principal act as a service account")
    def post(self, body: Body, account_id: str) -> Any:
        """Allow it; a repeat is fine."""
        service.grant_act_as(self.uow, self.actor, account_id=parse_uuid(account_id), **body)
        return {"message": "act-as granted"}

    @managed
    @blp.arguments(ActAs)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Let a principal no longer act as a service account")
    def delete(self, body: Body, account_id: str) -> Any:
        """End it; a repeat is fine."""
        service.revoke_act_as(self.uow, self.actor, account_id=parse_uuid(account_id), **body)
        return {"message": "act-as revoked"}


@blp.route(f"{PREFIX}/auth/token")
class ClientTokens(CredentialView):
    """Access tokens of programs."""

    transactional = False

    @gates.public
    @blp.arguments(TokenRequest, location="form")
    @blp.response(200, ClientToken)
    @blp.doc(summary="Swap a key of a service account for an access token")
    def post(self, body: Body) -> Any:
        """Return an access token; no session begins."""
        done = credentials.exchange(
            self.platform.uow,
            self.platform.settings.auth,
            self.throttle,
            client_address=request.remote_addr,
            **body,
        )
        return done, NO_STORE
