"""What agents have to say to people in chats, written in the transaction in which it happens.

Source: REST contract part 40, section 7.5.
"""

from __future__ import annotations

from app.agents.events import ApprovalRequested, RunEnded
from app.channels import outbox, repository, wording
from app.channels.messages import WorkLane
from app.core.uow import UnitOfWork


def run_ended(uow: UnitOfWork, event: RunEnded) -> None:
    """Answer the text a run was started for, and let the next one begin."""
    if event.source != "channel":
        return
    entry = repository.entry_of_run(uow.session, event.run_id, lock=True)
    channel = None if entry is None else repository.channel(uow.session, entry.channel_id)
    if entry is None or channel is None:
        return
    chat, sender = entry.external_chat_id, entry.external_user_id
    if event.error is not None:
        outbox.say(uow, channel, chat, wording.failed(event.error))
    else:
        outbox.say(uow, channel, chat, event.response, plain=False)
    repository.finish(uow.session, [entry.seq])
    uow.send_after_commit(WorkLane(str(channel.id), chat, sender))


def approval_requested(uow: UnitOfWork, event: ApprovalRequested) -> None:
    """Show an approval with its buttons where the run was asked for."""
    entry = repository.entry_of_run(uow.session, event.root_run_id)
    if entry is None:
        return
    data = {
        "kind": "approval",
        "tool_name": event.tool_name,
        "arguments": wording.arguments(event.arguments),
        "reason": event.reason,
        "buttons": [
            [wording.APPROVE_LABEL, f"approve:{event.approval_id}"],
            [wording.DENY_LABEL, f"deny:{event.approval_id}"],
        ],
    }
    outbox.put(uow, entry.channel_id, entry.external_chat_id, data)
