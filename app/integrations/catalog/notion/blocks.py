"""Between markdown and Notion's blocks, as far as both know the same things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

JSONObject = dict[str, Any]  # Any: JSON values

MAX_TEXT = 2000
INLINE = re.compile(
    r"\*\*(?P<bold>.+?)\*\*|~~(?P<strikethrough>.+?)~~|`(?P<code>[^`]+)`"
    r"|\[(?P<label>[^\]]+)\]\((?P<url>[^)\s]+)\)|(?<![*\w])\*(?P<italic>[^*\s][^*]*)\*(?!\w)"
)
LINES = (
    ("heading_1", re.compile(r"# +(.*)")),
    ("heading_2", re.compile(r"## +(.*)")),
    ("heading_3", re.compile(r"#{3,6} +(.*)")),
    ("to_do", re.compile(r"[-*+] +\[([ xX])\] +(.*)")),
    ("bulleted_list_item", re.compile(r"[-*+] +(.*)")),
    ("numbered_list_item", re.compile(r"\d+[.)] +(.*)")),
    ("quote", re.compile(r"> ?(.*)")),
)
RULE = re.compile(r"(?:-{3,}|\*{3,}|_{3,})\s*")
FENCE = re.compile(r"```\s*([\w+#-]*)")
PREFIXES = {
    "heading_1": "# ",
    "heading_2": "## ",
    "heading_3": "### ",
    "bulleted_list_item": "- ",
    "numbered_list_item": "1. ",
    "quote": "> ",
}
MARKS = (("code", "`"), ("bold", "**"), ("italic", "*"), ("strikethrough", "~~"))
LANGUAGES = {
    "": "plain text",
    "py": "python",
    "js": "javascript",
    "ts": "typescript",
    "sh": "shell",
}


def rich_text(text: str) -> list[JSONObject]:
    """Return text with inline marks as Notion's rich text."""
    found: list[JSONObject] = []
    end = 0
    for match in INLINE.finditer(text):
        found += _pieces(text[end : match.start()])
        end = match.end()
        if match["url"]:
            found += _pieces(match["label"], url=match["url"])
        else:
            mark = match.lastgroup or "bold"
            found += _pieces(match[mark], mark=mark)
    return found + _pieces(text[end:])


def _pieces(text: str, *, url: str | None = None, mark: str | None = None) -> list[JSONObject]:
    """Return a text in pieces of the length Notion takes."""
    return [
        {
            "type": "text",
            "text": {
                "content": text[start : start + MAX_TEXT],
                **({"link": {"url": url}} if url else {}),
            },
            **({"annotations": {mark: True}} if mark else {}),
        }
        for start in range(0, len(text), MAX_TEXT)
    ]


def to_blocks(markdown: str) -> list[JSONObject]:
    """Return markdown as blocks."""
    return list(_blocks(iter(markdown.splitlines())))


def _blocks(lines: Iterator[str]) -> Iterator[JSONObject]:
    paragraph: list[str] = []
    for line in lines:
        text = line.strip()
        special = _special(text, lines)
        if special is None and text:
            paragraph.append(text)
            continue
        if paragraph:
            yield _block("paragraph", "\n".join(paragraph))
            paragraph = []
        if special is not None:
            yield special
    if paragraph:
        yield _block("paragraph", "\n".join(paragraph))


def _special(text: str, lines: Iterator[str]) -> JSONObject | None:
    """Return the block a line begins, unless it is text of a paragraph."""
    fence = FENCE.fullmatch(text)
    if fence is not None:
        return _code(fence[1], lines)
    if RULE.fullmatch(text):
        return {"object": "block", "type": "divider", "divider": {}}
    for kind, pattern in LINES:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        if kind == "to_do":
            return _block(kind, match[2], checked=match[1] != " ")
        return _block(kind, match[1])
    return None


def _code(language: str, lines: Iterator[str]) -> JSONObject:
    body = []
    for line in lines:
        if line.strip() == "```":
            break
        body.append(line)
    code = {"rich_text": _pieces("\n".join(body)), "language": LANGUAGES.get(language, language)}
    return {"object": "block", "type": "code", "code": code}


def _block(kind: str, text: str, **more: Any) -> JSONObject:  # Any: JSON values
    return {"object": "block", "type": kind, kind: {"rich_text": rich_text(text), **more}}


def plain(pieces: Iterable[Mapping[str, Any]]) -> str:
    """Return rich text without its marks."""
    return "".join(_content(piece) for piece in pieces)


def _content(piece: Mapping[str, Any]) -> str:
    text = piece.get("plain_text")
    return str(text if text is not None else (piece.get("text") or {}).get("content") or "")


def marked(pieces: Iterable[Mapping[str, Any]]) -> str:
    """Return rich text as markdown."""
    found = []
    for piece in pieces:
        text = _content(piece)
        annotations = piece.get("annotations") or {}
        for name, mark in MARKS:
            if annotations.get(name) and text.strip():
                text = f"{mark}{text}{mark}"
        url = piece.get("href") or ((piece.get("text") or {}).get("link") or {}).get("url")
        found.append(f"[{text}]({url})" if url else text)
    return "".join(found)


def from_block(block: Mapping[str, Any], indent: str = "") -> str:
    """Return one block as markdown; blocks without text become a note of their kind."""
    kind = str(block.get("type"))
    body = block.get(kind) or {}
    text = marked(body.get("rich_text") or ())
    if kind == "divider":
        return f"{indent}---"
    if kind == "code":
        language = body.get("language") or ""
        return f"{indent}```{'' if language == 'plain text' else language}\n{text}\n```"
    if kind == "to_do":
        return f"{indent}- [{'x' if body.get('checked') else ' '}] {text}"
    if kind in {"child_page", "child_database"}:
        return f"{indent}[{body.get('title')}]"
    if "rich_text" not in body:
        return f"{indent}[{kind}]"
    return f"{indent}{PREFIXES.get(kind, '')}{text}"


def join(parts: Iterable[tuple[str, str]]) -> str:
    """Return blocks (kind and text) as one text: lists stay together, the rest is set apart."""
    lines: list[str] = []
    before = ""
    for kind, text in parts:
        tight = kind == before and kind in {"bulleted_list_item", "numbered_list_item", "to_do"}
        if lines and not tight and not text.startswith("  "):
            lines.append("")
        lines.append(text)
        before = kind
    return "\n".join(lines)
