"""Cutting texts, and reading what providers deliver."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels import slack, telegram, wording
from app.channels.incoming import Incoming, Webhook
from app.core.errors import Invalid


@given(st.text(alphabet="ab \n😀", max_size=400), st.integers(2, 50))
def test_parts_are_short_enough_and_lose_no_word(text: str, limit: int) -> None:
    parts = wording.split(text, limit)
    assert all(0 < wording.units(part) <= limit for part in parts)
    assert all(part.strip() for part in parts)
    kept, whole = "".join("".join(parts).split()), "".join(text.split())
    assert kept == whole


def test_ends_of_lines_and_words_are_preferred() -> None:
    assert wording.split("one two\nthree four", 12) == ["one two", "three four"]
    assert wording.split("one two three", 8) == ["one two", "three"]
    assert wording.split("😀" * 5, 4) == ["😀😀", "😀😀", "😀"]
    assert wording.split("short", 8) == ["short"]
    assert wording.split(" \n ", 8) == []


DEEP = b"[" * 600 + b"]" * 600


def read(update: dict[str, Any]) -> Incoming | None:
    hook = Webhook({}, json.dumps({"update_id": 1, **update}).encode())
    return telegram.read(hook, {}, answers_to="")


def message(**more: Any) -> dict[str, Any]:
    given = {"from": {"id": 7}, "chat": {"id": 7, "type": "private"}, **more}
    return {"message": given}


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("/start", "/start", ""),
        ("/START@desk_bot  link_1 ", "/start", "link_1"),
        ("/agent Stock  keeper", "/agent", "Stock  keeper"),
        ("/newsession\nnow", "/newsession", "now"),
    ],
)
def test_commands_are_recognised(text: str, name: str, argument: str) -> None:
    found = read(message(text=text))
    assert found is not None
    assert (found.kind, found.data) == ("command", {"name": name, "argument": argument})


def test_texts_are_taken_as_they_are() -> None:
    odd = {"file_id": "f\x00", "file_name": "\ud83d.txt"}
    found = read(message(text=" /help me\x00 \ud83d", document=odd))
    assert found is not None
    assert (found.chat, found.sender, found.kind) == ("7", "7", "text")
    file = {"kind": "document", "id": "f", "name": ".txt", "type": None}
    assert found.data == {"text": "/help me", "media": [file]}


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"message": None},
        message(),
        message(text="x", chat={"id": 7, "type": "group"}),
        message(text="x", **{"from": {"id": 7, "is_bot": True}}),
        message(text=["x"], photo=[None, {"width": 1}]),
        message(text="x", **{"from": {"id": "7"}}),
        {"callback_query": {"from": {"id": 7}, "data": "approve:x"}},
        {"callback_query": {"from": {"id": 7}, "message": {"chat": {"id": 7}}, "data": 5}},
    ],
)
def test_what_does_not_concern_us_is_left_alone(update: dict[str, Any]) -> None:
    assert read(update) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"update_id": "1"}', b"\xff", DEEP])
def test_what_is_no_update_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="webhook rejected: "):
        telegram.read(Webhook({}, body), {}, answers_to="")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (b"", "trigger_id"),
        (b"payload=5", "trigger_id"),
        (b"payload={", "not a valid form"),
        (b"trigger_id=1&response_url=https://hooks.slack.com.evil/", "response_url"),
    ],
)
def test_forms_that_make_no_sense_are_refused(form: bytes, said: str) -> None:
    hook = Webhook({"content-type": "application/x-www-form-urlencoded; charset=utf-8"}, form)
    with pytest.raises(Invalid, match=said):
        slack.read(hook, {}, answers_to="https://hooks.slack.com/")
