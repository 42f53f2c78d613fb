"""What Google's services have in common."""

from __future__ import annotations

from typing import Any

from connector import REJECTED, TEMPORARY, UNKNOWN, Api, Call, code_of

BUSY = frozenset(
    {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "dailyLimitExceeded"}
)
NO_SCOPE = frozenset({"insufficientPermissions", "insufficientScopes"})


def api(call: Call, prefix: str) -> Api:
    """Return the client of the connected account, for paths below a prefix."""
    headers = {"Authorization": f"Bearer {call.credentials['access_token']}"}
    return Api(f"{call.config['apiBaseUrl'].rstrip('/')}{prefix}", headers, _explain, _classify)


def _explain(body: Any) -> str | None:  # Any: a JSON value
    error = body.get("error") if isinstance(body, dict) else None
    return str(error["message"]) if isinstance(error, dict) and error.get("message") else None


def _classify(status: int, body: Any) -> str:  # Any: a JSON value
    """Tell a login without the needed scope from a resource the account may not touch."""
    if status != 403:
        return code_of(status)
    error = body.get("error") if isinstance(body, dict) else None
    details = (error.get("errors") if isinstance(error, dict) else None) or ()
    reasons = {detail.get("reason") for detail in details if isinstance(detail, dict)}
    if reasons & BUSY:
        return TEMPORARY
    return REJECTED if reasons & NO_SCOPE else UNKNOWN
