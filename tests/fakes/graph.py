"""Microsoft Graph with one mailbox, behind an OAuth server of its own."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.google import FakeOAuth
from tests.fakes.rest import Asked, Told


class FakeGraph(FakeOAuth):
    """The part of the API that the integration uses."""

    paths = ("/login/authorize", "/login/token", "/login/revoke")

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, dict[str, Any]] = {}
        self.sent: list[dict[str, Any]] = []

    def api(self, asked: Asked, _email: str) -> Told:
        one = re.fullmatch(r"/v1\.0/me/messages/(.+)", asked.path)
        if one is not None:
            found = self.messages.get(one[1])
            if found is None:
                return graph_error(404, "The specified object was not found in the store.")
            if asked.method == "PATCH":
                found.update(asked.body)
            return Told(body=found)
        if asked.path == "/v1.0/me/sendMail":
            self.sent.append(asked.body)
            return Told(202)
        if asked.path == "/v1.0/me/mailFolders/Inbox/messages":
            values = list(self.messages.values())[: int(asked.query["$top"])]
            return Told(body={"value": values})
        if asked.path == "/v1.0/$batch":
            return self.batch(asked)
        if asked.path == "/v1.0/me/mailFolders/Inbox/messages/delta":
            return self.delta(asked)
        return graph_error(404, f"no path {asked.method} {asked.path}")

    def batch(self, asked: Asked) -> Told:
        requests = asked.body["requests"]
        if len(requests) > 20:
            return graph_error(400, "too many requests in a batch")
        answers = []
        for request in reversed(requests):
            found = self.messages.get(request["url"].removeprefix("/me/messages/"))
            missing = graph_error(404, "not found").body
            answers.append(
                {"id": request["id"], "status": 404, "body": missing}
                if found is None
                else {"id": request["id"], "status": 200, "body": found}
            )
        return Told(body={"responses": answers})

    def delta(self, asked: Asked) -> Told:
        link = f"{self.url}{asked.path}"
        token = asked.query.get("$deltatoken")
        if token == "old":
            return graph_error(410, "resync required")
        if token == "d1":
            value = [{"id": "m0", "@removed": {"reason": "deleted"}}]
            return Told(body={"value": value, "@odata.deltaLink": f"{link}?$deltatoken=d2"})
        if asked.query.get("$skiptoken") == "s1":
            return Told(body={"value": [], "@odata.deltaLink": f"{link}?$deltatoken=d1"})
        values = list(self.messages.values())
        return Told(body={"value": values, "@odata.nextLink": f"{link}?$skiptoken=s1"})


def graph_error(status: int, text: str) -> Told:
    """Return an error as Graph words it."""
    return Told(status, {"error": {"code": "ErrorX", "message": text}})
