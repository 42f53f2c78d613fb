"""Calls of providers' APIs, within the limits of the guarded client.

Source: REST contract part 40, section 7.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from app.core.outgoing import LOOPBACK_HOSTS, Answer, Outgoing, OutgoingError
from config.settings import Settings

JSONObject = dict[str, Any]  # Any: JSON values

TIMEOUT_S = 10.0
DOWNLOAD_TIMEOUT_S = 60.0
MAX_DOWNLOAD = 20 * 1024 * 1024
MAX_REASON = 200


class ProviderFailed(Exception):
    """A provider did not do what it was asked for; the text holds no secret.

    Attributes:
        refused: it answered, and said no.
        retry_after_s: how long it wants to be left alone.
    """

    def __init__(
        self, reason: str, *, refused: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class File:
    """A downloaded file."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Api:
    """The API of one provider for one bot.

    Attributes:
        base: without a slash at the end.
        secrets: of the channel; none of them gets into an error.
    """

    outgoing: Outgoing
    base: str
    secrets: Mapping[str, str]

    @property
    def token(self) -> str:
        """The bot's token.

        Raises:
            ProviderFailed: there is none.
        """
        found = self.secrets.get("bot_token")
        if not found:
            raise ProviderFailed("the bot has no token", refused=True)
        return found

    def post(
        self,
        path: str,
        body: JSONObject,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        form: bool = False,
    ) -> tuple[Answer, JSONObject]:
        """Post JSON, or a form, and return the answer with its JSON object.

        Raises:
            ProviderFailed: there was no answer, or none that makes sense.
        """
        return self.send(
            f"{self.base}/{path}", body, headers=headers, timeout_s=timeout_s, form=form
        )

    def send(
        self,
        url: str,
        body: JSONObject,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        form: bool = False,
    ) -> tuple[Answer, JSONObject]:
        """Post to a whole address; else as ``post``."""
        kind = "application/x-www-form-urlencoded" if form else "application/json; charset=utf-8"
        content = urlencode(body) if form else json.dumps(body)
        sent = {"Content-Type": kind, **(headers or {})}
        answer = self._request("POST", url, sent, content.encode(), timeout_s=timeout_s)
        if answer.status == 429:
            raise ProviderFailed("too many requests", refused=True, retry_after_s=_wait(answer))
        if answer.status >= 500:
            raise ProviderFailed(f"status {answer.status}")
        try:
            value = answer.json()
        except OutgoingError:
            value = {}
        return answer, value if isinstance(value, dict) else {}

    def download(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Get a file of at most 20 MiB.

        Raises:
            ProviderFailed: it cannot be had.
        """
        answer = self._request(
            "GET", url, headers or {}, b"", timeout_s=DOWNLOAD_TIMEOUT_S, max_bytes=MAX_DOWNLOAD
        )
        if answer.status != 200:
            raise ProviderFailed(f"status {answer.status}", refused=answer.status < 500)
        return answer

    def clean(self, text: object) -> str:
        """Return a provider's words without our secrets, short enough to show."""
        shown = str(text)
        for secret in filter(None, self.secrets.values()):
            shown = shown.replace(secret, "***")
        return shown[:MAX_REASON]

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
        max_bytes: int = 1024 * 1024,
    ) -> Answer:
        try:
            return self.outgoing.request(
                method,
                url,
                headers=headers,
                body=body,
                timeout_s=timeout_s,
                max_bytes=max_bytes,
                # An operator may run a bot API server of their own next to the platform.
                loopback=urlsplit(self.base).hostname in LOOPBACK_HOSTS,
            )
        except OutgoingError as exc:
            raise ProviderFailed(self.clean(exc)) from exc


def open_api(settings: Settings, provider: str, secrets: Mapping[str, str]) -> Api:
    """Return the API of a provider."""
    base = {
        "telegram": settings.channels.telegram_api_base,
        "slack": settings.channels.slack_api_base,
    }[provider]
    return Api(Outgoing(settings.http.outgoing_networks), base.rstrip("/"), secrets)


def _wait(answer: Answer) -> float | None:
    try:
        seconds = answer.json()["parameters"]["retry_after"]
    except (OutgoingError, KeyError, TypeError):
        seconds = answer.headers.get("retry-after")
    try:
        return min(600.0, max(0.0, float(seconds)))
    except (TypeError, ValueError):
        return None
