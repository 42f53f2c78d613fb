"""Endpoints of secrets. None returns a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.actor import Actor, Kind
from app.core.errors import Forbidden
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.schemas import MessageOut
from app.http.views import View
from app.secrets import service
from app.secrets.schemas import PlatformSecretOut, SecretSet

blp = Blueprint("secrets", __name__, description="Secrets of apps and of the platform")

MANAGE = "admin:secrets.manage"


def _human_manager(actor: Actor, _path: Mapping[str, Any]) -> None:  # Any: path converters
    actor.require(MANAGE)
    if actor.kind is not Kind.HUMAN:
        raise Forbidden("only human users manage platform secrets")


human = gates.Gate(f"{MANAGE} (human)", check=_human_manager)


@blp.route(f"{PREFIX}/apps/<app_id>/secrets")
class AppSecrets(View):
    """Secrets of an app."""

    @gates.permission(MANAGE)
    @blp.arguments(SecretSet)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Set a secret of an app")
    def post(self, body: dict[str, str], app_id: str) -> dict[str, str]:
        """Create or overwrite a secret."""
        service.set_app_secret(self.uow, self.platform.cipher, app_id=app_id, **body)
        return {"message": f"secret '{body['key']}' set"}

    @gates.permission(MANAGE)
    @blp.doc(summary="List the names of an app's secrets")
    def get(self, app_id: str) -> list[str]:
        """Return sorted names, never values."""
        return service.app_secret_names(self.uow.session, app_id)


@blp.route(f"{PREFIX}/apps/<app_id>/secrets/<key>")
class AppSecret(View):
    """One secret of an app."""

    @gates.permission(MANAGE)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a secret of an app")
    def delete(self, app_id: str, key: str) -> dict[str, str]:
        """Delete a secret."""
        service.delete_app_secret(self.uow, app_id=app_id, key=key)
        return {"message": f"secret '{key}' deleted"}


@blp.route(f"{PREFIX}/platform/secrets")
class PlatformSecrets(View):
    """Secrets every app gets."""

    @human
    @blp.arguments(SecretSet)
    @blp.response(200, PlatformSecretOut)
    @blp.doc(summary="Set a platform secret and restart what runs")
    def post(self, body: dict[str, str]) -> dict[str, Any]:  # Any: text and number
        """Create or overwrite a secret; running apps restart in the background."""
        restarted = service.set_platform_secret(self.uow, self.platform.cipher, **body)
        message = f"platform secret '{body['key']}' set"
        return {"message": message, "workers_restarted": restarted}

    @human
    @blp.doc(summary="List the names of platform secrets")
    def get(self) -> list[str]:
        """Return sorted names, never values."""
        return service.platform_secret_names(self.uow.session)


@blp.route(f"{PREFIX}/platform/secrets/<key>")
class PlatformSecret(View):
    """One platform secret."""

    @human
    @blp.response(200, PlatformSecretOut)
    @blp.doc(summary="Delete a platform secret and restart what runs")
    def delete(self, key: str) -> dict[str, Any]:  # Any: text and number
        """Delete a secret; running apps restart in the background."""
        restarted = service.delete_platform_secret(self.uow, self.platform.cipher, key=key)
        message = f"platform secret '{key}' deleted"
        return {"message": message, "workers_restarted": restarted}
