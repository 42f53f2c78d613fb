"""What a manifest says about an integration.

Source: REST contract part 40, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from app.apps import service as apps_service
from app.core.errors import NotFound

JSONObject = Mapping[str, Any]  # Any: JSON values

TYPE: Final = "integration"
SECRET: Final = "platformSecret"  # noqa: S105 - the name of a key


@dataclass(frozen=True, slots=True)
class Integration:
    """An installed integration, or one of the catalog."""

    manifest: JSONObject

    @property
    def id(self) -> str:
        """Its id, which is an app id."""
        return str(self.manifest["appId"])

    @property
    def name(self) -> str:
        """Its name for people."""
        return str(self.manifest["name"])

    @property
    def entities(self) -> list[str]:
        """Names of its own kinds of records."""
        return [str(entity["entityName"]) for entity in self.manifest.get("dataContract") or ()]

    @property
    def config_schema(self) -> JSONObject:
        """JSON Schema of the platform-wide configuration."""
        schema: JSONObject = self.manifest.get("configSchema") or {}
        return schema

    @property
    def fields(self) -> dict[str, JSONObject]:
        """The configuration's fields with their schemas."""
        found = self.config_schema.get("properties")
        if not isinstance(found, Mapping):
            return {}
        return {name: rule for name, rule in found.items() if isinstance(rule, Mapping)}

    @property
    def secrets(self) -> dict[str, str]:
        """The secret fields, each with the name of its platform secret."""
        return {
            name: rule[SECRET]
            for name, rule in self.fields.items()
            if isinstance(rule.get(SECRET), str)
        }

    @property
    def user_auth(self) -> JSONObject | None:
        """How users log in; None: they do not."""
        return self.manifest.get("userAuth")

    @property
    def login(self) -> str | None:
        """``credentials``, ``redirect``, or None without a login of users."""
        auth = self.user_auth
        return None if auth is None else str(auth.get("type"))

    @property
    def oauth2(self) -> JSONObject | None:
        """The OAuth client the platform is; None: the integration's own code logs users in."""
        found = (self.user_auth or {}).get("oauth2")
        return found if isinstance(found, Mapping) else None

    @property
    def credentials_schema(self) -> JSONObject:
        """JSON Schema of the credentials users type in."""
        schema = (self.user_auth or {}).get("schema")
        return schema if isinstance(schema, Mapping) else {}

    def action(self, action_id: str) -> JSONObject:
        """Return a declared action.

        Raises:
            NotFound: there is none of that id.
        """
        for declared in self.manifest.get("actions") or ():
            if declared["id"] == action_id:
                found: JSONObject = declared
                return found
        raise NotFound(f"action '{action_id}' not found")

    def has_action(self, action_id: str) -> bool:
        """Tell whether an action is declared."""
        return any(a["id"] == action_id for a in self.manifest.get("actions") or ())

    def needs_connection(self, action: JSONObject) -> bool:
        """Tell whether an action works only with a user's login."""
        return bool(action.get("requiresConnection", self.user_auth is not None))

    def described(self) -> dict[str, Any]:  # Any: JSON values
        """Return what lists show; missing parts are null or empty."""
        manifest = self.manifest
        return {
            "id": self.id,
            "name": self.name,
            "version": manifest.get("version"),
            "description": manifest.get("description"),
            "actions": manifest.get("actions") or [],
            "configSchema": manifest.get("configSchema"),
            "userAuth": manifest.get("userAuth"),
            "webhooks": manifest.get("webhooks") or [],
            "instructions": manifest.get("instructions"),
        }


def require(session: Session, integration_id: str) -> Integration:
    """Return an installed integration.

    Raises:
        NotFound: it is not installed, or the app of that id is none.
    """
    found = find(session, integration_id)
    if found is None:
        raise NotFound(f"integration '{integration_id}' is not installed")
    return found


def find(session: Session, integration_id: str) -> Integration | None:
    """Return an installed integration, or None."""
    if not apps_service.exists(session, integration_id):
        return None
    manifest = apps_service.manifest_of(session, integration_id)
    return Integration(manifest) if manifest.get("type") == TYPE else None


def everything(session: Session) -> list[Integration]:
    """Return the installed integrations by name."""
    return [Integration(manifest) for manifest in apps_service.manifests(session, TYPE)]
