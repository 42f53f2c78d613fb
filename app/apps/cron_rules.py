"""The manifest's crons.

Source: REST contract part 20, sections 3.6 and 3.9 (R15); part 30, section 10.
"""

from __future__ import annotations

import json
import re
from typing import Any

from app.core.errors import Invalid
from app.core.schedule import load_zone, parse_schedule
from app.data.service import Node, distinct

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
OVERLAP_POLICIES = ("skip", "queue")
MAX_PAYLOAD_BYTES = 256 * 1024


def normalise_crons(node: Node) -> list[dict[str, Any]]:  # Any: JSON values
    """Return the crons of a manifest in normalised form; ``method`` is part of the payload.

    Raises:
        Invalid: a rule is broken; the text names the cron.
    """
    crons = [_cron(item) for item in node.objects("crons")]
    distinct([cron["name"] for cron in crons], "cron")
    return crons


def _cron(node: Node) -> dict[str, Any]:  # Any: JSON values
    name = node.required("name", str)
    if NAME.fullmatch(name) is None:
        raise Invalid(f"cron '{name}': invalid cron name: '{name}'")
    schedule = node.required("schedule", str)
    try:
        parse_schedule(schedule)
    except ValueError as exc:
        raise Invalid(f"cron '{name}': invalid schedule '{schedule}': {exc}") from exc
    zone = node.maybe("timezone", str)
    try:
        load_zone(zone)
    except ValueError as exc:
        raise Invalid(f"cron '{name}': {exc}") from exc
    policy = node.optional("overlapPolicy", str, "skip")
    if policy not in OVERLAP_POLICIES:
        raise Invalid(f"cron '{name}': overlapPolicy must be 'skip' or 'queue'")
    cron: dict[str, Any] = {"name": name, "schedule": schedule}  # Any: JSON values
    if zone is not None:
        cron["timezone"] = zone
    return {**cron, "payload": _payload(node, name), "overlapPolicy": policy}


def _payload(node: Node, name: str) -> Any:  # Any: a JSON value
    payload = node.body.get("payload", {})
    method = node.maybe("method", str)
    if method is not None:
        if not isinstance(payload, dict):
            raise Invalid(f"cron '{name}': payload must be an object when method is given")
        payload = {**payload, "method": method}
    if len(json.dumps(payload, ensure_ascii=False).encode()) > MAX_PAYLOAD_BYTES:
        raise Invalid(f"cron '{name}': payload too large")
    return payload
