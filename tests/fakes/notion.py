"""A Notion workspace with one database and pages; checks token, version and bodies."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.rest import Asked, FakeService, Told

TOKEN = "ntn_secret-token-of-the-workspace"
DATABASE = "d5a1b2c3-0000-4000-8000-000000000001"
SOURCE = "d5a1b2c3-0000-4000-8000-000000000002"
TYPES = {
    "Name": "title",
    "Notes": "rich_text",
    "Amount": "number",
    "Done": "checkbox",
    "Stage": "select",
    "Tags": "multi_select",
    "Due": "date",
    "State": "status",
    "Link": "url",
}


class FakeNotion(FakeService):
    """The part of the API that the integration uses."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, dict[str, Any]] = {}
        self.blocks: dict[str, list[dict[str, Any]]] = {}
        self.comments: list[dict[str, Any]] = []

    def handle(self, asked: Asked) -> Told:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return error(401, "API token is invalid.")
        if asked.headers.get("notion-version") != "2025-09-03":
            return error(400, "Notion-Version header failed validation")
        for method, pattern, route in (
            ("POST", r"/v1/search", self.search),
            ("GET", r"/v1/data_sources/(.+)", self.source),
            ("GET", r"/v1/databases/(.+)", self.database),
            ("POST", r"/v1/data_sources/(.+)/query", self.query),
            ("POST", r"/v1/pages", self.create),
            ("GET", r"/v1/pages/(.+)", self.page),
            ("PATCH", r"/v1/pages/(.+)", self.change),
            ("GET", r"/v1/blocks/(.+)/children", self.children),
            ("PATCH", r"/v1/blocks/(.+)/children", self.append),
            ("DELETE", r"/v1/blocks/(.+)", self.drop),
            ("POST", r"/v1/comments", self.comment),
        ):
            match = re.fullmatch(pattern, asked.path)
            if match is not None and asked.method == method:
                return route(asked, *match.groups())
        return error(404, f"no path {asked.method} {asked.path}")

    def search(self, asked: Asked) -> Told:
        kind = asked.body.get("filter", {}).get("value")
        found = [] if kind == "page" else [source()]
        if kind != "data_source":
            found += list(self.pages.values())
        size = asked.body["page_size"]
        start = int(asked.body.get("start_cursor") or 0)
        more = start + size < len(found)
        return Told(
            body={
                "results": found[start : start + size],
                "has_more": more,
                "next_cursor": str(start + size) if more else None,
            }
        )

    def source(self, _asked: Asked, found: str) -> Told:
        return Told(body=source()) if found == SOURCE else error(404, "no such data source")

    def database(self, _asked: Asked, found: str) -> Told:
        if found != DATABASE:
            return error(404, "Could not find database")
        return Told(body={"object": "database", "id": DATABASE, "data_sources": [{"id": SOURCE}]})

    def query(self, asked: Asked, found: str) -> Told:
        assert found == SOURCE
        entries = [p for p in self.pages.values() if p["parent"].get("data_source_id") == SOURCE]
        size = asked.body["page_size"]
        start = int(asked.body.get("start_cursor") or 0)
        more = start + size < len(entries)
        return Told(
            body={
                "results": entries[start : start + size],
                "has_more": more,
                "next_cursor": str(start + size) if more else None,
            }
        )

    def create(self, asked: Asked) -> Told:
        body = asked.body
        types = TYPES if body["parent"]["type"] == "data_source_id" else {"title": "title"}
        for name, value in body["properties"].items():
            if types.get(name) not in value:
                return error(400, f"body.properties.{name} is not of the property's type")
        if len(body.get("children", ())) > 100:
            return error(400, "body.children.length should be ≤ 100")
        page_id = f"page-{len(self.pages)}"
        self.pages[page_id] = {
            "object": "page",
            "id": page_id,
            "url": f"https://notion.test/{page_id}",
            "last_edited_time": "2026-11-24T10:00:00.000Z",
            "parent": body["parent"],
            "properties": {
                name: {"id": name, "type": types[name], **value}
                for name, value in body["properties"].items()
            },
        }
        self.blocks[page_id] = []
        self._append(page_id, body.get("children", ()))
        return Told(body=self.pages[page_id])

    def page(self, _asked: Asked, page_id: str) -> Told:
        found = self.pages.get(page_id)
        return error(404, "Could not find page") if found is None else Told(body=found)

    def change(self, asked: Asked, page_id: str) -> Told:
        page = self.pages[page_id]
        if asked.body.get("in_trash"):
            page["in_trash"] = True
        for name, value in asked.body.get("properties", {}).items():
            page["properties"][name].update(value)
        return Told(body=page)

    def children(self, asked: Asked, block_id: str) -> Told:
        found = self.blocks.get(block_id, [])
        start = int(asked.query.get("start_cursor") or 0)
        size = min(int(asked.query["page_size"]), 40)
        more = start + size < len(found)
        return Told(
            body={
                "results": found[start : start + size],
                "has_more": more,
                "next_cursor": str(start + size) if more else None,
            }
        )

    def append(self, asked: Asked, block_id: str) -> Told:
        if len(asked.body["children"]) > 100:
            return error(400, "body.children.length should be ≤ 100")
        self._append(block_id, asked.body["children"])
        return Told(body={"results": []})

    def _append(self, block_id: str, blocks: Any) -> None:
        for block in blocks:
            kept = {**block, "id": f"block-{block_id}-{len(self.blocks[block_id])}-{id(block)}"}
            self.blocks[block_id].append(kept)

    def drop(self, _asked: Asked, block_id: str) -> Told:
        for blocks in self.blocks.values():
            blocks[:] = [block for block in blocks if block["id"] != block_id]
        return Told(body={})

    def comment(self, asked: Asked) -> Told:
        assert asked.body["parent"]["page_id"] in self.pages
        self.comments.append(asked.body)
        return Told(body={"id": f"comment-{len(self.comments)}"})


def error(status: int, text: str) -> Told:
    """Return an error as Notion words it."""
    return Told(status, {"object": "error", "status": status, "message": text})


def source() -> dict[str, Any]:
    """Return the database's data source."""
    return {
        "object": "data_source",
        "id": SOURCE,
        "title": [{"plain_text": "Deals"}],
        "properties": {
            name: {"id": name.lower(), "name": name, "type": kind, kind: {}}
            for name, kind in TYPES.items()
        },
    }
