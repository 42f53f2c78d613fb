"""Mail of Google accounts (Gmail API v1)."""

from __future__ import annotations

import base64
import binascii
import email.utils
import html
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gmail_copy
import mail
from connector import (
    MISCONFIGURED,
    Api,
    Call,
    JSONObject,
    ServiceError,
    dispatcher,
    segment,
)
from gmail_messages import decoded, headers_of, parsed
from sync import sync_all
from trellis_worker import serve

LISTED_HEADERS = ["From", "To", "Subject", "Date"]


# --- writing ---------------------------------------------------------------------------------


def send_email(call: Call) -> JSONObject:
    """Send a message."""
    gmail = gmail_copy.api(call)
    body, message_id = composed(gmail, call)
    sent = gmail.post("/messages/send", body)
    return {
        "messageId": sent["id"],
        "threadId": sent.get("threadId"),
        "headerMessageId": message_id,
    }


def create_draft(call: Call) -> JSONObject:
    """Keep a message as a draft."""
    gmail = gmail_copy.api(call)
    body, message_id = composed(gmail, call)
    draft = gmail.post("/drafts", {"message": body})
    return {
        "draftId": draft["id"],
        "messageId": draft["message"]["id"],
        "threadId": draft["message"].get("threadId"),
        "headerMessageId": message_id,
    }


def composed(gmail: Api, call: Call) -> tuple[JSONObject, str]:
    """Return a message as Gmail takes it, and its id.

    Raises:
        ServiceError: the sender is none of the account's, or the message cannot be made.
    """
    sender = call.input.get("from")
    if sender is not None:
        own = [alias["sendAsEmail"].lower() for alias in aliases(gmail)]
        if email.utils.parseaddr(str(sender))[1].lower() not in own:
            raise ServiceError(MISCONFIGURED, f"'{sender}' is no sender address of this account")
    message = mail.compose(
        call.input,
        sender=sender,
        text=call.input.get("text"),
        html=call.input.get("html"),
        domain="mail.gmail.com",
    )
    raw = base64.urlsafe_b64encode(message.as_bytes()).decode()
    return {"raw": raw, **call.given("threadId")}, str(message["Message-ID"])


# --- reading ---------------------------------------------------------------------------------


def list_emails(call: Call) -> JSONObject:
    """Return messages that match a query, newest first."""
    gmail = gmail_copy.api(call)
    query = {
        "q": call.input.get("query"),
        "maxResults": call.input.get("maxResults", 20),
        "pageToken": call.input.get("pageToken"),
        "labelIds": call.input.get("labelIds"),
    }
    page = gmail.get("/messages", query) or {}
    found = [str(item["id"]) for item in page.get("messages") or ()]
    with ThreadPoolExecutor(gmail_copy.READERS) as readers:
        messages = list(readers.map(lambda message_id: summary(gmail, message_id), found))
    return {"messages": messages, "nextPageToken": page.get("nextPageToken")}


def summary(gmail: Api, message_id: str) -> JSONObject:
    """Return what a list shows of a message."""
    query = {"format": "metadata", "metadataHeaders": LISTED_HEADERS}
    message = gmail.get(f"/messages/{segment(message_id)}", query)
    headers = headers_of(message["payload"])
    return {
        "id": message["id"],
        "threadId": message.get("threadId"),
        "from": headers.get("from"),
        "to": headers.get("to"),
        "subject": headers.get("subject"),
        "date": headers.get("date"),
        "snippet": html.unescape(message.get("snippet") or ""),
        "labelIds": message.get("labelIds") or [],
    }


def get_email(call: Call) -> JSONObject:
    """Return one message, parsed."""
    path = f"/messages/{segment(call.input['messageId'])}"
    found: JSONObject = parsed(gmail_copy.api(call).get(path, {"format": "full"}))
    return found


def get_attachment(call: Call) -> JSONObject:
    """Return the content of an attachment."""
    message, found = segment(call.input["messageId"]), segment(call.input["attachmentId"])
    body = gmail_copy.api(call).get(f"/messages/{message}/attachments/{found}")
    content = decoded(body["data"])
    return {"data": base64.b64encode(content).decode(), "size": len(content)}


# --- account ---------------------------------------------------------------------------------


def get_profile(call: Call) -> JSONObject:
    """Return the account's address."""
    profile = gmail_copy.api(call).get("/profile")
    return {"emailAddress": profile["emailAddress"], "historyId": profile.get("historyId")}


def list_send_as(call: Call) -> JSONObject:
    """Return the addresses the account may send from."""
    return {"sendAs": aliases(gmail_copy.api(call))}


def aliases(gmail: Api) -> list[JSONObject]:
    """Return the account's sender addresses."""
    found: list[JSONObject] = gmail.get("/settings/sendAs").get("sendAs") or []
    return found


def watch(call: Call) -> JSONObject:
    """Have Gmail publish changes to a Pub/Sub topic."""
    topic = call.input.get("topicName") or call.config.get("pubsubTopicName")
    if not topic:
        raise ServiceError(MISCONFIGURED, "no topicName given and no pubsubTopicName configured")
    body = {"topicName": topic, **call.given("labelIds")}
    begun = gmail_copy.api(call).post("/watch", body, repeatable=True)
    return {"historyId": begun.get("historyId"), "expiration": begun.get("expiration")}


def stop_watch(call: Call) -> JSONObject:
    """Have Gmail publish nothing any more."""
    gmail_copy.api(call).post("/stop", repeatable=True)
    return {}


# --- webhooks --------------------------------------------------------------------------------


def webhook(params: Mapping[str, Any]) -> JSONObject:
    """Return what a Pub/Sub push says; one that says nothing is skipped, never refused."""
    body = params.get("body")
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("data"), str):
        return {"skipped": True, "reason": "no message data"}
    try:
        data = json.loads(decoded(message["data"].replace("+", "-").replace("/", "_")))
    except (ValueError, binascii.Error):
        return {"skipped": True, "reason": "message data is not JSON"}
    if not isinstance(data, dict) or not data.get("emailAddress"):
        return {"skipped": True, "reason": "message data names no account"}
    return {
        "event": params.get("event") or "push_notification",
        "emailAddress": data["emailAddress"],
        "historyId": data.get("historyId"),
    }


serve(
    rpc={
        "__integration": dispatcher(
            {
                "send_email": send_email,
                "create_draft": create_draft,
                "list_emails": list_emails,
                "get_email": get_email,
                "get_attachment": get_attachment,
                "get_profile": get_profile,
                "list_send_as": list_send_as,
                "watch": watch,
                "stop_watch": stop_watch,
                "sync_connect": gmail_copy.sync_connect,
                "sync_disconnect": gmail_copy.sync_disconnect,
                "sync_now": gmail_copy.sync_now,
            }
        ),
        "__webhook": webhook,
    },
    on_job=sync_all,
)
