"""Files that people send in chats: fetched from the provider, kept in the app's storage.

Source: REST contract part 40, section 7.5.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from app.apps import service as apps_service
from app.channels import repository
from app.channels.client import Api, ProviderFailed, open_api
from app.channels.providers import PROVIDERS
from app.core import vault
from app.core.errors import AppError
from app.core.platform import Platform
from app.files import service as files_service
from app.files.service import Content

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

MAX_FILES = 10


@dataclass(frozen=True, slots=True)
class Order:
    """Files to fetch.

    Attributes:
        app_id: in whose storage they are kept.
        user_id: who sent them.
        media: what the provider said about each.
    """

    channel_id: UUID
    app_id: str
    user_id: UUID
    media: Sequence[JSONObject]


def fetch(platform: Platform, order: Order) -> dict[str, object]:
    """Fetch and keep files; name those that could not be had.

    Returns:
        ``file_ids`` and ``notes``, lines for the text.
    """
    file_ids: list[str] = []
    notes: list[str] = []
    with platform.uow() as uow:
        channel = repository.channel(uow.session, order.channel_id)
        secrets = vault.get_all(uow.session, platform.cipher, f"channel:{order.channel_id}")
    if channel is None:
        return {"file_ids": file_ids, "notes": notes}
    provider = channel.provider
    notes += [f"[{_named(media)}: there are too many files]" for media in order.media[MAX_FILES:]]
    for media in order.media[:MAX_FILES]:
        try:
            api = open_api(platform.settings, provider, secrets)
            file_ids.append(str(_keep(platform, order, provider, api, media)))
        except (ProviderFailed, AppError) as exc:
            log.warning("channel_file_not_fetched", provider=provider, reason=str(exc))
            notes.append(f"[{_named(media)} could not be fetched: {_reason(exc)}]")
    return {"file_ids": file_ids, "notes": notes}


def _keep(platform: Platform, order: Order, provider: str, api: Api, media: JSONObject) -> UUID:
    file = PROVIDERS[provider].download(api, media)
    content = Content(file.name, file.content_type, len(file.data), io.BytesIO(file.data))
    quota = platform.settings.http.app_files_max_bytes
    with platform.uow() as uow:
        apps_service.require(uow.session, order.app_id)
        stored = files_service.store(
            uow, order.user_id, app_id=order.app_id, content=content, quota=quota
        )
    return stored.id


def _reason(exc: ProviderFailed | AppError) -> str:
    if isinstance(exc, ProviderFailed) and not exc.refused:
        return "the provider did not send it"
    return str(exc)


def _named(media: JSONObject) -> str:
    name = media.get("name")
    return f"{media['kind']} {name}" if name else str(media["kind"])
