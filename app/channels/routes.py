"""Channels over HTTP.

Source: REST contract part 40, sections 7.2 to 7.4.
"""

from __future__ import annotations

from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from app.channels import ingestion, service
from app.channels.incoming import Webhook
from app.channels.models import Channel
from app.channels.schemas import (
    ChannelActivate,
    ChannelActivated,
    ChannelCreate,
    ChannelCreated,
    ChannelIdentityOut,
    ChannelLink,
    ChannelOut,
    ChannelStatusOut,
)
from app.core.ids import parse_uuid
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.parsing import parse_object
from app.http.views import View

blp = Blueprint("channels", __name__, description="Channels: agents in Telegram and Slack")

MANAGE = "admin:channels.manage"


@blp.route(f"{PREFIX}/channels")
class Channels(View):
    """All channels."""

    @gates.signed_in
    @blp.response(200, ChannelOut(many=True))
    @blp.doc(summary="List channels")
    def get(self) -> list[Channel]:
        """Return the channels, newest first."""
        return service.list_channels(self.uow.session)

    @gates.permission(MANAGE)
    @blp.arguments(ChannelCreate)
    @blp.response(200, ChannelCreated)
    @blp.doc(summary="Create a channel")
    def post(self, body: dict[str, Any]) -> service.Created:  # Any: JSON values
        """Store an inactive channel."""
        return service.create(self.uow, self.platform.cipher, **body)


@blp.route(f"{PREFIX}/channels/<channel_id>")
class ChannelView(View):
    """One channel."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, ChannelStatusOut)
    @blp.doc(summary="Delete a channel")
    def delete(self, channel_id: str) -> dict[str, str]:
        """Delete it; one that does not exist is fine, too."""
        service.delete(self.platform, channel_id=parse_uuid(channel_id))
        return {"status": "ok"}


@blp.route(f"{PREFIX}/channels/<channel_id>/activate")
class Activate(View):
    """Switching a channel on."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, ChannelActivated)
    @blp.doc(
        summary="Activate a channel",
        requestBody={"content": {"application/json": {"schema": ChannelActivate}}},
    )
    def post(self, channel_id: str) -> dict[str, str]:
        """Point the bot at us."""
        wanted, raw = parse_uuid(channel_id), request.get_data()
        body = ChannelActivate().load(parse_object(raw) if raw.strip() else {})
        url = service.activate(self.platform, channel_id=wanted, **body)
        return {"status": "active", "webhook_url": url}


@blp.route(f"{PREFIX}/channels/<channel_id>/deactivate")
class Deactivate(View):
    """Switching a channel off."""

    transactional = False

    @gates.permission(MANAGE)
    @blp.response(200, ChannelStatusOut)
    @blp.doc(summary="Deactivate a channel")
    def post(self, channel_id: str) -> dict[str, str]:
        """Stop listening to the bot."""
        service.deactivate(self.platform, channel_id=parse_uuid(channel_id))
        return {"status": "inactive"}


@blp.route(f"{PREFIX}/channels/<channel_id>/link")
class Link(View):
    """Linking one's account at the provider."""

    @gates.signed_in
    @blp.response(200, ChannelLink)
    @blp.doc(summary="Get a token that links your account")
    def post(self, channel_id: str) -> service.Invitation:
        """Return a token that is good for five minutes and once."""
        wanted = parse_uuid(channel_id)
        return service.invite(self.platform, self.uow, self.actor, channel_id=wanted)


@blp.route(f"{PREFIX}/channels/<channel_id>/identity")
class Identity(View):
    """The caller's own links to a channel."""

    @gates.signed_in
    @blp.response(200, ChannelIdentityOut)
    @blp.doc(summary="Tell whether you have an account linked")
    def get(self, channel_id: str) -> dict[str, bool]:
        """Tell whether the caller is linked."""
        wanted = parse_uuid(channel_id)
        return {"linked": service.is_linked(self.uow.session, self.actor, channel_id=wanted)}

    @gates.signed_in
    @blp.response(200, ChannelStatusOut)
    @blp.doc(summary="Unlink your accounts")
    def delete(self, channel_id: str) -> dict[str, str]:
        """Remove the caller's links."""
        service.unlink(self.uow, self.actor, channel_id=parse_uuid(channel_id))
        return {"status": "unlinked"}


@blp.route(f"{PREFIX}/channels/<provider>/<channel_id>/webhook")
class ChannelWebhook(View):
    """Where providers call."""

    @gates.public
    @blp.response(200)
    @blp.doc(summary="Receive what a messaging provider delivers")
    def post(self, provider: str, channel_id: str) -> ResponseReturnValue:
        """Accept it; everything else happens later."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = ingestion.receive(
            self.uow,
            self.platform.cipher,
            provider=provider,
            channel_id=channel_id,
            hook=Webhook(headers, request.get_data(cache=False)),
            answers_to=self.platform.settings.channels.slack_response_prefix,
        )
        return jsonify(answer)
