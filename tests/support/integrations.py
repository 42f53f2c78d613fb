"""Running integrations in tests of the whole platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Caller:
    """Runs actions of one integration as one user."""

    client: httpx.Client
    integration: str

    @property
    def path(self) -> str:
        return f"/integrations/{self.integration}"

    def raw(self, action: str, given: Any = None, **kwargs: Any) -> httpx.Response:
        return self.client.post(f"{self.path}/actions/{action}", json=given or {}, **kwargs)

    def ok(self, action: str, given: Any = None, **kwargs: Any) -> Any:
        answer = self.raw(action, given, **kwargs)
        assert answer.status_code == 200, answer.text
        assert answer.json()["ok"] is True, answer.text
        return answer.json()["data"]

    def fails(self, action: str, given: Any = None, **kwargs: Any) -> dict[str, Any]:
        answer = self.raw(action, given, **kwargs)
        assert answer.status_code == 200, answer.text
        assert answer.json()["ok"] is False, answer.text
        return answer.json()["error"]

    def begin(self, **query: str) -> str:
        """Return where to log in."""
        answer = self.client.post(f"{self.path}/auth/start", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "redirect"
        return answer.json()["url"]

    def return_with(self, query: str) -> httpx.Response:
        """Come back from the login page, without any token."""
        base = self.client.base_url
        return httpx.get(f"{base.scheme}://{base.netloc.decode()}{CALLBACK}?{query}")

    def status(self) -> dict[str, Any]:
        return self.client.get(f"{self.path}/auth").json()


CALLBACK = "/api/v1/integrations/auth/callback"


def deploy(admin: httpx.Client, integration: str, **config: Any) -> str:
    """Deploy an integration of the catalog and configure it; return its webhook token."""
    answer = admin.post(f"/integrations/catalog/{integration}/deploy")
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"] == f"integration '{integration}' is deployed"
    for cron in admin.get(f"/apps/{integration}/crons").json():
        # Its next tick would fall into whatever a test counts just then.
        off = admin.patch(f"/apps/{integration}/crons/{cron['id']}", json={"enabled": False})
        assert off.status_code == 200, off.text
    if config:
        saved = admin.put(f"/integrations/{integration}/config", json=config)
        assert saved.json() == {"message": "configuration saved"}, saved.text
    return answer.json()["webhookToken"]
