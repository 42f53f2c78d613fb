"""Commands in chats: linking, sessions, the choice of an agent, decisions.

Source: REST contract part 40, sections 7.3 and 7.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from app.agents import attended
from app.channels import linking, outbox, repository, wording
from app.channels.models import Channel, InboxEntry
from app.channels.providers import PROVIDERS
from app.core.errors import AppError, Forbidden, Invalid
from app.core.ids import parse_uuid
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.rbac import service as rbac_service

JSONObject = dict[str, Any]  # Any: JSON values

LINK_COMMANDS = frozenset({"/start", "/link"})
DECISIONS = {"approve": True, "deny": False}


@dataclass(frozen=True, slots=True)
class Lane:
    """One sender in one chat."""

    channel_id: UUID
    chat: str
    sender: str

    @property
    def name(self) -> str:
        """The name of its lock."""
        return f"{self.channel_id}/{self.chat}/{self.sender}"

    def waiting(self, session: Session, *, limit: int) -> list[InboxEntry]:
        """Return what waits here, in order."""
        return repository.waiting(session, self.channel_id, self.chat, self.sender, limit=limit)


def token_of(command: JSONObject) -> str | None:
    """Return the token of a link command; None if it is another one or has none."""
    if command["name"] in LINK_COMMANDS and command["argument"]:
        return str(command["argument"])
    return None


def handle(uow: UnitOfWork, channel: Channel, lane: Lane, entry: InboxEntry) -> None:
    """Do what a command says and answer it.

    Args:
        uow: the unit of work; the lane is locked.
        channel: the channel.
        lane: who, where.
        entry: the command; of a link with a token, ``user_id`` says what the token was good for.
    """
    command = entry.data
    buttons: list[list[str]] = []
    if command["name"] in LINK_COMMANDS:
        answer = _link(uow, channel, lane, command)
    elif (user_id := repository.user_of(uow.session, channel.id, lane.sender)) is None:
        answer = wording.NO_LINK
    elif command["name"] == "/newsession":
        answer = _new_session(uow, channel, lane)
    elif command["name"] == "pick":
        answer = _choose(uow, channel, lane, user_id, app_id=command["argument"])
    elif command["argument"]:
        answer = _choose(uow, channel, lane, user_id, name=command["argument"])
    else:
        answer, buttons = _offer(uow.session, user_id)
    if "press" in command:
        _answer_press(uow, channel, entry, answer)
        if PROVIDERS[channel.provider].ANSWERS_STAY:
            return
    outbox.say(uow, channel, lane.chat, answer, via=command.get("via"), buttons=buttons)


def _link(uow: UnitOfWork, channel: Channel, lane: Lane, command: JSONObject) -> str:
    if token_of(command) is None:
        return wording.BEGIN
    user_id = command["user_id"] and UUID(command["user_id"])
    if not user_id or rbac_service.load_actor(uow.session, user_id) is None:
        return wording.BAD_LINK
    linking.link(uow, channel, chat=lane.chat, sender=lane.sender, user_id=user_id)
    return wording.LINKED


def _new_session(uow: UnitOfWork, channel: Channel, lane: Lane) -> str:
    talk = repository.conversation(uow.session, channel.id, lane.chat, lane.sender)
    if talk is not None:
        _talk_to(uow, channel, lane, talk.app_id)
    return wording.NEW_SESSION


def _talk_to(uow: UnitOfWork, channel: Channel, lane: Lane, app_id: str) -> None:
    repository.start_conversation(
        uow.session, channel.id, lane.chat, lane.sender, app_id=app_id, session_id=uuid4()
    )


def _offer(session: Session, user_id: UUID) -> tuple[str, list[list[str]]]:
    found = _choices(session, user_id)
    if not found:
        return wording.NO_AGENTS, []
    return wording.CHOOSE_AGENT, [[agent.name, f"agent:{agent.app_id}"] for agent in found]


def _choose(
    uow: UnitOfWork,
    channel: Channel,
    lane: Lane,
    user_id: UUID,
    *,
    app_id: str | None = None,
    name: str = "",
) -> str:
    for agent in _choices(uow.session, user_id):
        wanted = agent.name.casefold() == name.casefold() if app_id is None else False
        if wanted or agent.app_id == app_id:
            _talk_to(uow, channel, lane, agent.app_id)
            linking.delegate(uow, channel.id, user_id, agent.app_id)
            return wording.talking_to(agent.name)
    return wording.UNKNOWN_AGENT


def _choices(session: Session, user_id: UUID) -> list[attended.AgentRef]:
    actor = rbac_service.load_actor(session, user_id)
    return [] if actor is None else attended.choices(session, actor)


def _answer_press(uow: UnitOfWork, channel: Channel, entry: InboxEntry, text: str) -> None:
    data = {"kind": "press", "press": entry.data["press"], "text": text}
    outbox.put(uow, channel.id, f"press:{entry.seq}", data)


# --- decisions -------------------------------------------------------------------------------


def decide(platform: Platform, seq: int) -> None:
    """Handle the press of an approval's button; a second time nothing happens."""
    with platform.uow() as uow:
        entry = repository.entry(uow.session, seq, lock=True)
        if entry is None or entry.state != "waiting" or entry.kind != "decision":
            return
        channel = repository.channel(uow.session, entry.channel_id)
        if channel is not None and channel.status == "active":
            _answer_press(uow, channel, entry, _decision(uow, channel, entry))
        repository.finish(uow.session, [entry.seq])


def _decision(uow: UnitOfWork, channel: Channel, entry: InboxEntry) -> str:
    verb, _, text = str(entry.data["data"]).partition(":")
    user_id = repository.user_of(uow.session, channel.id, entry.external_user_id)
    actor = None if user_id is None else rbac_service.load_actor(uow.session, user_id)
    if actor is None:
        return wording.MAY_NOT_DECIDE
    try:
        if verb not in DECISIONS:
            raise Invalid("not a decision")
        approval_id, approve = parse_uuid(text), DECISIONS[verb]
        attended.decide(
            uow, actor, approval_id=approval_id, approve=approve, reason=wording.DENIAL_REASON
        )
    except Forbidden:
        return wording.MAY_NOT_DECIDE
    except AppError:
        return wording.CLOSED
    return wording.APPROVED if approve else wording.DENIED
