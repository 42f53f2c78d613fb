"""Mail of Microsoft accounts (Microsoft Graph v1.0)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from email.utils import parseaddr
from typing import Any

import mail
from connector import (
    CURSOR,
    MISCONFIGURED,
    UNKNOWN,
    Api,
    Call,
    JSONObject,
    ServiceError,
    code_of,
    dispatcher,
    segment,
)
from trellis_worker import serve

BATCH = 20
FIELDS = (
    "id,subject,from,toRecipients,ccRecipients,receivedDateTime,isRead,flag,importance,"
    "categories,bodyPreview,hasAttachments,conversationId"
)
MODIFIABLE = ("isRead", "importance", "categories")


def api(call: Call) -> Api:
    """Return the client of the connected account."""
    headers = {"Authorization": f"Bearer {call.credentials['access_token']}"}
    return Api(base(call), headers, _explain)


def base(call: Call) -> str:
    """Return the address below which everything lies."""
    return f"{call.config['apiBaseUrl'].rstrip('/')}/v1.0"


def _explain(body: Any) -> str | None:  # Any: a JSON value
    error = body.get("error") if isinstance(body, dict) else None
    return str(error["message"]) if isinstance(error, dict) and error.get("message") else None


def send_email(call: Call) -> JSONObject:
    """Send a message."""
    message: JSONObject = {
        "subject": call.input["subject"],
        "body": {
            "contentType": "HTML" if call.input.get("html") else "Text",
            "content": call.input["body"],
        },
        "toRecipients": recipients(call.input.get("to")),
        "ccRecipients": recipients(call.input.get("cc")),
        "bccRecipients": recipients(call.input.get("bcc")),
    }
    if not message["toRecipients"]:
        raise ServiceError(MISCONFIGURED, "at least one recipient is needed")
    body = {"message": message, "saveToSentItems": call.input.get("saveToSentItems", True)}
    api(call).post("/me/sendMail", body)
    return {"ok": True}


def recipients(value: object) -> list[JSONObject]:
    """Return addresses as Graph takes them."""
    pairs = [parseaddr(text) for text in mail.addresses(value or [])]
    return [{"emailAddress": {"address": a, **({"name": n} if n else {})}} for n, a in pairs]


def list_emails(call: Call) -> JSONObject:
    """Return messages of a folder, newest first."""
    query: JSONObject = {"$top": call.input.get("top", 10), "$select": FIELDS}
    if call.input.get("search"):
        words = str(call.input["search"]).replace('"', " ")
        query["$search"] = f'"{words}"'
    elif call.input.get("filter"):
        query["$filter"] = call.input["filter"]
    else:
        query["$orderby"] = "receivedDateTime desc"
    page = api(call).get(f"{folder(call)}/messages", query)
    return {"messages": page.get("value") or [], "nextLink": page.get("@odata.nextLink")}


def folder(call: Call) -> str:
    """Return the path of the folder a call is about."""
    return f"/me/mailFolders/{segment(call.input.get('folder') or 'Inbox')}"


def get_email(call: Call) -> Any:  # Any: the service's message
    """Return one message."""
    return api(call).get(f"/me/messages/{segment(call.input['messageId'])}")


def modify_email(call: Call) -> Any:  # Any: the service's message
    """Change marks of a message."""
    change = call.given(*MODIFIABLE)
    if call.input.get("flag"):
        change["flag"] = {"flagStatus": call.input["flag"]}
    if not change:
        raise ServiceError(MISCONFIGURED, "nothing to change")
    path = f"/me/messages/{segment(call.input['messageId'])}"
    return api(call).send("PATCH", path, body=change, repeatable=True)


def batch_get_emails(call: Call) -> JSONObject:
    """Return several messages; one that fails does not hide the others."""
    found: list[Any] = []
    failed: list[JSONObject] = []
    graph = api(call)
    for chunk in chunks(call.input["messageIds"]):
        requests = [
            {"id": str(n), "method": "GET", "url": f"/me/messages/{segment(message_id)}"}
            for n, message_id in enumerate(chunk)
        ]
        answer = graph.post("/$batch", {"requests": requests}, repeatable=True)
        for response in sorted(answer.get("responses") or (), key=lambda r: int(r["id"])):
            message_id, status = chunk[int(response["id"])], int(response["status"])
            if status == 200:
                found.append(response["body"])
            else:
                text = _explain(response.get("body")) or f"the service answered {status}"
                failed.append({"id": message_id, "code": code_of(status), "message": text})
    return {"messages": found, "errors": failed}


def chunks(ids: list[str]) -> Iterator[list[str]]:
    """Return ids in the numbers Graph takes at once."""
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def delta_list(call: Call) -> JSONObject:
    """Return what changed in a folder since a delta link, or everything."""
    link, query = f"{folder(call)}/messages/delta", {"$top": call.input.get("top", 100)}
    if call.input.get("deltaLink"):
        link, query = str(call.input["deltaLink"]), {}
        # The access token goes to the configured service only, whatever a link says.
        if not link.startswith(f"{base(call)}/"):
            raise ServiceError(UNKNOWN, "deltaLink is not of this service")
    try:
        page = api(call).get(link, query)
    except ServiceError as exc:
        if exc.status in {400, 410}:
            raise ServiceError(CURSOR, exc.message, status=exc.status) from None
        raise
    changed = page.get("value") or []
    return {
        "messagesAdded": [item for item in changed if "@removed" not in item],
        "messagesDeleted": [item["id"] for item in changed if "@removed" in item],
        "nextLink": page.get("@odata.nextLink"),
        "deltaLink": page.get("@odata.deltaLink"),
    }


def webhook(params: Mapping[str, Any]) -> JSONObject:
    """Return the notifications of a Graph subscription."""
    body = params.get("body")
    found = body.get("value") if isinstance(body, dict) else None
    if not isinstance(found, list):
        return {"skipped": True, "reason": "no notifications"}
    return {"event": params.get("event") or "mail_notification", "notifications": found}


serve(
    rpc={
        "__integration": dispatcher(
            {
                "send_email": send_email,
                "list_emails": list_emails,
                "get_email": get_email,
                "modify_email": modify_email,
                "batch_get_emails": batch_get_emails,
                "delta_list": delta_list,
            }
        ),
        "__webhook": webhook,
    }
)
