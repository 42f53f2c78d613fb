"""Queue messages that start agent runs.

Source: REST contract part 30, section 9.4; part 40, section 1.14.
"""

from __future__ import annotations

import json
from typing import Any

from app.agents import service
from app.core.actor import Actor
from app.core.uow import UnitOfWork
from app.jobs import service as jobs_service

JSONObject = dict[str, Any]  # Any: JSON values

HELD_S = 120.0


def start(
    uow: UnitOfWork,
    owner: Actor,
    *,
    app_id: str,
    msg_id: int,
    source: str,
    cron_id: str | None,
    hook_id: str | None,
    payload: Any,  # Any: a JSON value
) -> None:
    """Start the run a message asks for; the message is settled when the run ends.

    Raises:
        AppError: there is no run; the text says why, the message becomes a dead letter.
    """
    target, message = _request(app_id, source, payload)
    service.start_autonomous(
        uow,
        owner_id=owner.user_id,
        app_id=target,
        message=message,
        source="hook" if source == "hook" else "cron",
        trigger_id=str(hook_id if source == "hook" else cron_id),
        job={"msg_id": msg_id, "hook_depth": owner.hook_depth},
    )
    jobs_service.hold(uow, msg_id, HELD_S)


def _request(app_id: str, source: str, payload: Any) -> tuple[str, str]:  # Any: a JSON value
    """Return whose agent is asked, and what."""
    given: JSONObject = payload if isinstance(payload, dict) else {}
    if source != "hook":
        message = given.get("message")
        text = message if isinstance(message, str) and message.strip() else None
        return app_id, text or service.DEFAULT_CRON_MESSAGE
    config = given.get("action_config")
    target = config.get("app_id") if isinstance(config, dict) else None
    first = (
        f"Record change: {given.get('operation')} {app_id}.{given.get('entity')} "
        f"{given.get('record_id')}"
    )
    change = {"record": given.get("record"), "old_record": given.get("old_record")}
    return str(target or app_id), f"{first}\n\n{json.dumps(change, ensure_ascii=False)}"
