"""Channels: making, switching on and off, linking; and what other areas tell them.

Source: REST contract part 40, sections 7.1 to 7.3.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlalchemy.orm import Session

from app.agents.events import AgentRegistered
from app.channels import linking, repository
from app.channels.client import ProviderFailed, open_api
from app.channels.models import Channel
from app.channels.providers import PROVIDERS
from app.core import vault
from app.core.actor import Actor
from app.core.crypto import Cipher
from app.core.errors import Failed, Invalid, NotFound
from app.core.outgoing import is_loopback_host
from app.core.platform import Platform
from app.core.uow import UnitOfWork

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

MAX_NAME = 120
MAX_VALUE = 1000
WEBHOOK_PATH = "/api/v1/channels/{provider}/{channel_id}/webhook"


@dataclass(frozen=True, slots=True)
class Created:
    """A new channel and the secret its provider will be given."""

    id: UUID
    webhook_secret: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token that links an account, once."""

    token: str
    provider: str
    link_url: str | None
    expires_in: int = linking.LIFE_S


def list_channels(session: Session) -> list[Channel]:
    """Return every channel without its secrets, newest first."""
    return repository.channels(session)


def create(
    uow: UnitOfWork, cipher: Cipher, *, provider: str, name: str, config: Mapping[str, Any]
) -> Created:
    """Store an inactive channel. Not idempotent.

    Args:
        uow: the unit of work.
        cipher: of the vault.
        provider: which one.
        name: 1 to 120 characters, for people.
        config: tokens may come now or at the activation.

    Raises:
        Invalid: another provider, a bad name, a config field of another type.
    """
    if provider not in PROVIDERS:
        raise Invalid(f"unsupported provider '{provider}'")
    if not 1 <= len(name.strip()) <= len(name) <= MAX_NAME:
        raise Invalid(f"name must be 1 to {MAX_NAME} characters")
    plain, secrets = _checked(provider, config)
    secrets["webhook_secret"] = random.token_urlsafe(32)
    channel = repository.add_channel(
        uow.session,
        provider=provider,
        name=name,
        config={"default_agent": linking.DEFAULT_AGENT, **plain},
    )
    _keep(uow.session, cipher, channel.id, secrets)
    return Created(channel.id, secrets["webhook_secret"])


def _checked(provider: str, config: Mapping[str, Any]) -> tuple[JSONObject, dict[str, str]]:
    """Return the open and the secret fields of a config; others count for nothing."""
    plain: JSONObject = {}
    secrets: dict[str, str] = {}
    names = PROVIDERS[provider].SECRETS
    for name in ("default_agent", *names):
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise Invalid(f"config field '{name}' must be a string")
        if not 1 <= len(value.strip()) <= len(value) <= MAX_VALUE or "\x00" in value:
            raise Invalid(f"config field '{name}' must be 1 to {MAX_VALUE} characters")
        (secrets if name in names else plain)[name] = value.strip()
    return plain, secrets


def _keep(session: Session, cipher: Cipher, channel_id: UUID, secrets: Mapping[str, str]) -> None:
    for name, value in secrets.items():
        vault.put(session, cipher, _scope(channel_id), name, value)


def _scope(channel_id: UUID) -> str:
    return f"channel:{channel_id}"


def delete(platform: Platform, *, channel_id: UUID) -> None:
    """Delete a channel with its links and secrets; agents' sessions stay. Idempotent."""
    with platform.uow() as uow:
        channel = repository.channel(uow.session, channel_id, lock=True)
        if channel is None:
            return
        secrets = vault.get_all(uow.session, platform.cipher, _scope(channel_id))
        for user_id in repository.users_of(uow.session, channel_id):
            linking.revoke(uow, channel_id, user_id)
        vault.delete_scope(uow.session, _scope(channel_id))
        repository.delete_channel(uow.session, channel_id)
    log.info("channel_deleted", channel_id=str(channel_id))
    if channel.status == "active":
        _switch_off(platform, channel.provider, secrets)


# --- switching on and off --------------------------------------------------------------------


def activate(
    platform: Platform, *, channel_id: UUID, public_url: str | None, config: Mapping[str, Any]
) -> str:
    """Point a bot at us and listen to it; return the webhook's address. Repeating is safe.

    Args:
        platform: the process's platform.
        channel_id: which channel.
        public_url: our external address; None = that of the settings.
        config: merged first; kept also when the provider refuses.

    Raises:
        NotFound: no such channel.
        Invalid: an address or a config field is missing or wrong, or the provider refuses.
        Failed: the provider cannot be reached.
    """
    with platform.uow() as uow:
        channel = _require(uow.session, channel_id, lock=True)
        base = _public_url(platform, public_url)
        _merge(uow, platform.cipher, channel, config)
        secrets = vault.get_all(uow.session, platform.cipher, _scope(channel_id))
        for name in PROVIDERS[channel.provider].REQUIRED:
            if not secrets.get(name):
                raise Invalid(f"config field '{name}' is required")
        provider = channel.provider
    url = base + WEBHOOK_PATH.format(provider=provider, channel_id=channel_id)
    api = open_api(platform.settings, provider, secrets)
    try:
        learned = PROVIDERS[provider].activate(api, url)
    except ProviderFailed as exc:
        if exc.refused:
            raise Invalid(f"{provider} refused: {exc.reason}") from exc
        log.warning("channel_provider_away", provider=provider, reason=exc.reason)
        raise Failed(f"{provider} cannot be reached") from exc
    with platform.uow() as uow:
        channel = _require(uow.session, channel_id, lock=True)
        channel.config = {**channel.config, **learned}
        channel.status = "active"
        channel.updated_at = func.now()
    log.info("channel_activated", channel_id=str(channel_id), provider=provider)
    return url


def _merge(uow: UnitOfWork, cipher: Cipher, channel: Channel, config: Mapping[str, Any]) -> None:
    plain, secrets = _checked(channel.provider, config)
    _keep(uow.session, cipher, channel.id, secrets)
    before = linking.default_agent(channel)
    channel.config = {**channel.config, **plain}
    channel.updated_at = func.now()
    if linking.default_agent(channel) != before:
        linking.delegate_all(uow, channel)


def _public_url(platform: Platform, given: str | None) -> str:
    if given is None:
        # `trellis up` always sets one; no provider can call a loopback address.
        given = platform.settings.http.public_url
        if is_loopback_host(urlsplit(given).hostname or ""):
            raise Invalid("public_url is required")
    parts = _split(given)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Invalid("field 'public_url' must be a URL")
    return given.rstrip("/")


def _split(url: str) -> Any:  # Any: urllib's result
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if parts.query or parts.fragment or parts.username else parts


def deactivate(platform: Platform, *, channel_id: UUID) -> None:
    """Stop listening to a bot. Idempotent.

    Raises:
        NotFound: no such channel.
    """
    with platform.uow() as uow:
        channel = _require(uow.session, channel_id, lock=True)
        was_active = channel.status == "active"
        if was_active:
            channel.status = "inactive"
            channel.updated_at = func.now()
        provider = channel.provider
        secrets = vault.get_all(uow.session, platform.cipher, _scope(channel_id))
    if was_active:
        _switch_off(platform, provider, secrets)


def _switch_off(platform: Platform, provider: str, secrets: Mapping[str, str]) -> None:
    try:
        PROVIDERS[provider].deactivate(open_api(platform.settings, provider, secrets))
    except ProviderFailed as exc:
        log.warning("channel_webhook_not_removed", provider=provider, reason=exc.reason)


def _require(session: Session, channel_id: UUID, *, lock: bool = False) -> Channel:
    channel = repository.channel(session, channel_id, lock=lock)
    if channel is None:
        raise NotFound("channel not found")
    return channel


# --- linking ---------------------------------------------------------------------------------


def invite(platform: Platform, uow: UnitOfWork, actor: Actor, *, channel_id: UUID) -> Invitation:
    """Return a token that links an account at the provider to the actor. Several may be open.

    Raises:
        NotFound: no such channel, or it is inactive.
        NotReady: Redis is away.
    """
    channel = _require(uow.session, channel_id)
    if channel.status != "active" or actor.user_id is None:
        raise NotFound("channel not found")
    token = linking.new_token(platform.redis, channel_id, actor.user_id)
    url = PROVIDERS[channel.provider].link_url(channel.config, token)
    return Invitation(token, channel.provider, url)


def is_linked(session: Session, actor: Actor, *, channel_id: UUID) -> bool:
    """Tell whether the actor has an account linked.

    Raises:
        NotFound: no such channel.
    """
    _require(session, channel_id)
    return actor.user_id is not None and repository.is_linked(session, channel_id, actor.user_id)


def unlink(uow: UnitOfWork, actor: Actor, *, channel_id: UUID) -> None:
    """Remove all of the actor's links to a channel and what they allowed; runs go on.

    Raises:
        NotFound: no such channel, or no link.
    """
    _require(uow.session, channel_id)
    if actor.user_id is None or not repository.unlink_user(uow.session, channel_id, actor.user_id):
        raise NotFound("not linked to this channel")
    linking.revoke(uow, channel_id, actor.user_id)


# --- events ----------------------------------------------------------------------------------


def delegate_again(uow: UnitOfWork, event: AgentRegistered) -> None:
    """Let channels run their default agent once it is there (again)."""
    for channel in repository.channels(uow.session):
        if linking.default_agent(channel) == event.app_id:
            linking.delegate_all(uow, channel)
