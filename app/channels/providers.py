"""The providers, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from app.channels import slack, telegram
from app.channels.client import Api, File
from app.channels.incoming import Incoming, Webhook

JSONObject = dict[str, Any]  # Any: JSON values


class Provider(Protocol):
    """What a messaging provider can do for us. Each is a module of its own."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of the module
        """As in paths."""

    @property
    def SECRETS(self) -> tuple[str, ...]:  # noqa: N802 - as above
        """Config fields that go to the vault."""

    @property
    def REQUIRED(self) -> tuple[str, ...]:  # noqa: N802 - as above
        """Config fields without which a channel cannot be active."""

    @property
    def TEXT_LIMIT(self) -> int:  # noqa: N802 - as above
        """Length of one message, in UTF-16 units."""

    @property
    def SHOWS_TYPING(self) -> bool:  # noqa: N802 - as above
        """Whether people can see that the bot is busy."""

    @property
    def ANSWERS_STAY(self) -> bool:  # noqa: N802 - as above
        """Whether the answer to a button stays in the chat."""

    def handshake(self, hook: Webhook) -> JSONObject | None:
        """Return the answer to a test of the address; None if the request is none."""

    def verify(self, hook: Webhook, secrets: dict[str, str]) -> None:
        """Pass if the request came from the provider, else raise ``Invalid``."""

    def read(self, hook: Webhook, config: JSONObject, *, answers_to: str) -> Incoming | None:
        """Return what was said, or None; raise ``Invalid`` if it makes no sense."""

    def activate(self, api: Api, webhook_url: str) -> JSONObject:
        """Point the bot at us; return what belongs into the config."""

    def deactivate(self, api: Api) -> None:
        """Stop the bot from sending to us."""

    def link_url(self, config: JSONObject, token: str) -> str | None:
        """Return the address that links an account."""

    def typing(self, api: Api, chat: str) -> None:
        """Show that the bot is busy."""

    def send(self, api: Api, chat: str, data: JSONObject) -> None:
        """Send an entry of the outbox."""

    def download(self, api: Api, media: JSONObject) -> File:
        """Fetch a file somebody sent."""


PROVIDERS: Mapping[str, Provider] = {telegram.NAME: telegram, slack.NAME: slack}
