"""Endpoints of public shares.

Source: REST contract part 20, section 8.
"""

from __future__ import annotations

from typing import Any

from flask import request

from app.apps import service, shares
from app.apps.schemas import ShareCreate, ShareInfoOut, ShareOut, ShareRowOut
from app.core.errors import Unauthenticated
from app.core.ids import parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.nobody import bearer_token, brake
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("shares", __name__, description="Public shares")

may_share = gates.permission("app:{app_id}:public.share")


@blp.route(f"{PREFIX}/apps/<app_id>/public-shares")
class Shares(View):
    """The caller's shares of an app."""

    @may_share
    @blp.arguments(ShareCreate)
    @blp.response(201, ShareOut)
    @blp.doc(summary="Make a share token for scoped public RPCs")
    def post(self, body: dict[str, Any], app_id: str) -> Any:  # Any: JSON; smorest's answers
        """Make a share, or return the active one with the same context without its token."""
        service.require(self.uow.session, app_id)
        share = shares.create(self.uow, self.actor, app_id=app_id, context=body["context"])
        base = self.platform.settings.http.public_url.rstrip("/")
        answer = {
            "id": share.id,
            "url": f"{base}/share/{share.token}" if share.token else "",
            "token": share.token,
            "token_prefix": share.token_prefix,
            "context": share.context,
            "created_at": share.created_at,
            "revoked": False,
        }
        return answer, 201 if share.token else 200

    @may_share
    @blp.response(200, ShareRowOut(many=True))
    @blp.doc(summary="List the caller's active shares")
    def get(self, app_id: str) -> list[shares.Share]:
        """Return them, newest first."""
        service.require(self.uow.session, app_id)
        return shares.own(self.uow.session, self.actor, app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/public-shares/<share_id>")
class ShareView(View):
    """One share."""

    @may_share
    @blp.response(200, MessageOut)
    @blp.doc(summary="Revoke a share of the caller")
    def delete(self, app_id: str, share_id: str) -> dict[str, str]:
        """Revoke it; its token stops working at once."""
        shares.revoke(self.uow, self.actor, app_id=app_id, share_id=parse_uuid(share_id))
        return {"message": f"share '{share_id}' revoked"}


@blp.route(f"{PREFIX}/public/share/info")
class ShareInfo(View):
    """What a share token is for."""

    transactional = False

    @gates.public
    @blp.response(200, ShareInfoOut)
    @blp.doc(summary="Show app and context of a share token, sent as bearer token")
    def get(self) -> shares.Share:
        """Return app and context; counts as a use."""
        brake(self.platform, request)
        token = bearer_token(request)
        if token is None:
            raise Unauthenticated("authentication required")
        with self.platform.uow() as uow:
            return shares.look(uow, token)
