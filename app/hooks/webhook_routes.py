"""Webhook endpoints.

Source: REST contract part 20, section 10.
"""

from __future__ import annotations

from flask import Response, request

from app.core.errors import NotFound
from app.hooks import ingress, webhooks
from app.hooks.models import WebhookDelivery
from app.hooks.schemas import DeliveryDetailOut, DeliveryOut, WebhookOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("webhooks", __name__, description="Inbound webhooks")
DELIVERIES = f"{PREFIX}/apps/<app_id>/webhooks/<webhook_id>/deliveries"


@blp.route(f"{PREFIX}/hooks/<token>")
class Ingress(View):
    """Where services outside call."""

    transactional = False

    @gates.public
    @blp.doc(
        summary="Call a webhook; its token is the credential",
        parameters=[
            {"in": "header", "name": "X-Webhook-Timestamp", "schema": {"type": "integer"}},
            {"in": "header", "name": "X-Webhook-Signature", "schema": {"type": "string"}},
        ],
        requestBody={"content": {"*/*": {"schema": {"description": "anything, 5 MiB at most"}}}},
    )
    def post(self, token: str) -> Response:
        """Return what the app's handler returns."""
        request.max_content_length = ingress.MAX_BODY_BYTES
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = ingress.Received(headers, request.get_data())
        answer = ingress.receive(self.platform, token, received)
        return Response(answer, content_type="application/json")


@blp.route(f"{PREFIX}/apps/<app_id>/webhooks")
class Webhooks(View):
    """Webhooks of an app."""

    @gates.permission("app:{app_id}:webhook.read")
    @blp.response(200, WebhookOut(many=True))
    @blp.doc(summary="List webhooks with their tokens and signing secrets")
    def get(self, app_id: str) -> list[webhooks.ListedWebhook]:
        """Return the webhooks by name."""
        return webhooks.list_webhooks(self.uow.session, self.platform.cipher, app_id)


@blp.route(DELIVERIES)
class Deliveries(View):
    """Calls of a webhook."""

    @gates.permission("app:{app_id}:webhook.read")
    @blp.response(200, DeliveryOut(many=True))
    @blp.doc(summary="List the latest calls of a webhook")
    def get(self, app_id: str, webhook_id: str) -> list[WebhookDelivery]:
        """Return the newest first."""
        return webhooks.list_deliveries(self.uow.session, app_id=app_id, webhook_id=webhook_id)


@blp.route(f"{DELIVERIES}/<delivery_id>")
class DeliveryView(View):
    """One call of a webhook."""

    @gates.permission("app:{app_id}:webhook.read")
    @blp.response(200, DeliveryDetailOut)
    @blp.doc(summary="Show a call of a webhook with its headers and body")
    def get(self, app_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Return the delivery."""
        return webhooks.get_delivery(
            self.uow.session,
            app_id=app_id,
            webhook_id=webhook_id,
            delivery_id=_number(delivery_id),
        )


@blp.route(f"{DELIVERIES}/<delivery_id>/redeliver")
class Redelivery(View):
    """A call once more."""

    transactional = False

    # Who may read the list has the token, and with it may make any call.
    @gates.permission("app:{app_id}:webhook.read")
    @blp.response(200, DeliveryOut)
    @blp.doc(summary="Hand a call of a webhook to the app once more")
    def post(self, app_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
        """Return the new delivery, which says how it ended."""
        number = ingress.redeliver(
            self.platform,
            app_id=app_id,
            webhook_id=webhook_id,
            delivery_id=_number(delivery_id),
        )
        with self.platform.uow() as uow:
            return webhooks.get_delivery(
                uow.session, app_id=app_id, webhook_id=webhook_id, delivery_id=number
            )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound(f"no delivery {text}")
    return int(text)
