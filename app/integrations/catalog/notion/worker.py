"""Pages, databases and comments of a Notion workspace (Notion API 2025-09-03)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import blocks
from connector import (
    NOT_FOUND,
    UNKNOWN,
    Api,
    Call,
    JSONObject,
    ServiceError,
    dispatcher,
    segment,
)
from properties import from_notion, title_of, to_notion, types_of
from trellis_worker import serve

VERSION = "2025-09-03"
APPEND_AT_ONCE = 100
MAX_BLOCKS = 1000
MAX_DEPTH = 3
OWN_PAGES = frozenset({"child_page", "child_database"})
EVENTS_SKIPPED: JSONObject = {"skipped": True}


def api(call: Call) -> Api:
    """Return the client of the configured workspace."""
    headers = {"Authorization": f"Bearer {call.config['apiToken']}", "Notion-Version": VERSION}
    return Api(f"{call.config['apiBaseUrl'].rstrip('/')}/v1", headers, _explain)


def _explain(body: Any) -> str | None:  # Any: a JSON value
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else None


# --- reading ---------------------------------------------------------------------------------


def search(call: Call) -> JSONObject:
    """Find pages and databases by title."""
    body: JSONObject = {"page_size": call.input.get("pageSize", 10)}
    if call.input.get("query"):
        body["query"] = call.input["query"]
    if call.input.get("filter"):
        body["filter"] = {"property": "object", "value": call.input["filter"]}
    return _listed(api(call).post("/search", body, repeatable=True), "results")


def list_databases(call: Call) -> JSONObject:
    """Return the databases the integration may see."""
    body: JSONObject = {
        "page_size": call.input.get("pageSize", 10),
        "filter": {"property": "object", "value": "data_source"},
        **({"start_cursor": c} if (c := call.input.get("startCursor")) else {}),
    }
    return _listed(api(call).post("/search", body, repeatable=True), "databases")


def query_database(call: Call) -> JSONObject:
    """Return entries of a database."""
    notion = api(call)
    source = _source(notion, call.input["databaseId"])
    body: JSONObject = {"page_size": call.input.get("pageSize", 100)}
    body |= call.given("filter", "sorts")
    if call.input.get("startCursor"):
        body["start_cursor"] = call.input["startCursor"]
    path = f"/data_sources/{segment(source['id'])}/query"
    return _listed(notion.post(path, body, repeatable=True), "results")


def get_database_schema(call: Call) -> JSONObject:
    """Return a database's properties with their types."""
    source = _source(api(call), call.input["databaseId"])
    return {
        "id": source["id"],
        "title": blocks.plain(source.get("title") or ()),
        "properties": {
            name: {
                "id": found.get("id"),
                "type": found.get("type"),
                "config": found.get(str(found.get("type"))) or {},
            }
            for name, found in (source.get("properties") or {}).items()
        },
    }


def get_page(call: Call) -> JSONObject:
    """Return a page with its content as markdown."""
    notion = api(call)
    page = notion.get(f"/pages/{segment(call.input['pageId'])}")
    parts = list(_content(notion, page["id"], ""))
    return {
        "id": page["id"],
        "title": title_of(page["properties"]),
        "url": page.get("url"),
        "markdown": blocks.join(parts),
        "properties": from_notion(page["properties"]),
        "lastEditedAt": page.get("last_edited_time"),
    }


def _content(notion: Api, block_id: str, indent: str) -> Iterator[tuple[str, str]]:
    for block in _children(notion, block_id):
        yield str(block["type"]), blocks.from_block(block, indent)
        inside = block["type"] not in OWN_PAGES and len(indent) < 2 * MAX_DEPTH
        if block.get("has_children") and inside:
            yield from _content(notion, block["id"], f"{indent}  ")


def _children(notion: Api, block_id: str) -> list[JSONObject]:
    found: list[JSONObject] = []
    query: JSONObject = {"page_size": 100}
    while len(found) < MAX_BLOCKS:
        answer = notion.get(f"/blocks/{segment(block_id)}/children", query)
        found += answer["results"]
        if not answer.get("has_more"):
            break
        query["start_cursor"] = answer["next_cursor"]
    return found


def _source(notion: Api, database_id: str) -> JSONObject:
    """Return a data source by its own id, or the first one of a database by that one's id."""
    path = f"/data_sources/{segment(database_id)}"
    try:
        source: JSONObject = notion.get(path)
    except ServiceError as exc:
        if exc.code != NOT_FOUND:
            raise
        database = notion.get(f"/databases/{segment(database_id)}")
        sources = database.get("data_sources") or ()
        if not sources:
            raise
        source = notion.get(f"/data_sources/{segment(sources[0]['id'])}")
    return source


def _listed(answer: Mapping[str, Any], name: str) -> JSONObject:
    return {
        name: [_summary(item) for item in answer.get("results") or ()],
        "hasMore": bool(answer.get("has_more")),
        "nextCursor": answer.get("next_cursor"),
    }


def _summary(item: Mapping[str, Any]) -> JSONObject:
    common = {
        "id": item.get("id"),
        "object": item.get("object"),
        "url": item.get("url"),
        "lastEditedAt": item.get("last_edited_time"),
    }
    if item.get("object") == "page":
        found = item.get("properties") or {}
        return {**common, "title": title_of(found), "properties": from_notion(found)}
    return {**common, "title": blocks.plain(item.get("title") or ())}


# --- writing ---------------------------------------------------------------------------------


def create_page(call: Call) -> JSONObject:
    """Create a page below a page, or an entry of a database."""
    notion = api(call)
    values = call.input.get("properties") or {}
    if call.input.get("parentType") == "database":
        source = _source(notion, call.input["parentId"])
        types = types_of(source.get("properties") or {})
        title = next((name for name, kind in types.items() if kind == "title"), "Name")
        parent = {"type": "data_source_id", "data_source_id": source["id"]}
        properties = to_notion({**values, title: call.input["title"]}, types)
    else:
        if values:
            raise ServiceError(UNKNOWN, "a page below a page has no properties but its title")
        parent = {"type": "page_id", "page_id": call.input["parentId"]}
        properties = {"title": {"title": blocks.rich_text(call.input["title"])}}
    return _created(notion, parent, properties, call.input.get("markdown"))


def create_entry(call: Call) -> JSONObject:
    """Add an entry to a database."""
    notion = api(call)
    source = _source(notion, call.input["databaseId"])
    types = types_of(source.get("properties") or {})
    parent = {"type": "data_source_id", "data_source_id": source["id"]}
    properties = to_notion(call.input["properties"], types)
    return _created(notion, parent, properties, call.input.get("markdown"))


def _created(
    notion: Api, parent: JSONObject, properties: JSONObject, text: str | None
) -> JSONObject:
    content = blocks.to_blocks(text or "")
    body: JSONObject = {"parent": parent, "properties": properties}
    if content:
        body["children"] = content[:APPEND_AT_ONCE]
    page = notion.post("/pages", body)
    _append(notion, page["id"], content[APPEND_AT_ONCE:])
    return {"id": page["id"], "url": page.get("url")}


def update_page(call: Call) -> JSONObject:
    """Change properties of a page, replace its content, or both."""
    notion = api(call)
    page_id = call.input["pageId"]
    page = _changed(notion, page_id, call.input.get("properties") or {})
    if call.input.get("markdown") is not None:
        for block in _children(notion, page_id):
            if block["type"] not in OWN_PAGES:
                notion.send("DELETE", f"/blocks/{segment(block['id'])}")
        _append(notion, page_id, blocks.to_blocks(call.input["markdown"]))
        page = notion.get(f"/pages/{segment(page_id)}")
    return _edited(page)


def update_entry(call: Call) -> JSONObject:
    """Change properties of an entry."""
    return _edited(_changed(api(call), call.input["pageId"], call.input["properties"]))


def _changed(notion: Api, page_id: str, values: Mapping[str, Any]) -> JSONObject:
    path = f"/pages/{segment(page_id)}"
    page: JSONObject = notion.get(path)
    if values:
        properties = to_notion(values, types_of(page.get("properties") or {}))
        page = notion.send("PATCH", path, body={"properties": properties})
    return page


def _edited(page: Mapping[str, Any]) -> JSONObject:
    return {"id": page["id"], "url": page.get("url"), "lastEditedAt": page.get("last_edited_time")}


def _append(notion: Api, block_id: str, content: list[JSONObject]) -> None:
    path = f"/blocks/{segment(block_id)}/children"
    for start in range(0, len(content), APPEND_AT_ONCE):
        notion.send("PATCH", path, body={"children": content[start : start + APPEND_AT_ONCE]})


def trash_page(call: Call) -> JSONObject:
    """Move a page to the trash."""
    path = f"/pages/{segment(call.input['pageId'])}"
    api(call).send("PATCH", path, body={"in_trash": True}, repeatable=True)
    return {"ok": True}


def add_comment(call: Call) -> JSONObject:
    """Comment on a page."""
    body = {
        "parent": {"page_id": call.input["pageId"]},
        "rich_text": blocks.rich_text(call.input["text"]),
    }
    return {"id": api(call).post("/comments", body)["id"]}


# --- webhooks --------------------------------------------------------------------------------


def webhook(params: Mapping[str, Any]) -> JSONObject:
    """Return an event of Notion as the app's code wants it."""
    body = params.get("body")
    if not isinstance(body, dict) or not body.get("type"):
        return EVENTS_SKIPPED
    return {"event": body["type"], "data": body}


serve(
    rpc={
        "__integration": dispatcher(
            {
                "search": search,
                "get_page": get_page,
                "create_page": create_page,
                "update_page": update_page,
                "trash_page": trash_page,
                "list_databases": list_databases,
                "get_database_schema": get_database_schema,
                "query_database": query_database,
                "create_entry": create_entry,
                "update_entry": update_entry,
                "add_comment": add_comment,
            }
        ),
        "__webhook": webhook,
    }
)
