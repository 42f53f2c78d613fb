"""An uninstall takes everything of the app along, and nothing of others.

Source: REST contract part 20, sections 2.3 and 14.3.
"""

import io
from dataclasses import dataclass

from sqlalchemy import text

from tests.support.agents import install_agent

MANIFEST = {
    "appId": "desk",
    "name": "Desk",
    "dataContract": [{"entityName": "notes", "fields": [{"name": "body", "type": "text"}]}],
    "crons": [{"name": "daily", "schedule": "0 0 * * *"}],
    "webhooks": ["in", {"name": "ask", "method": "agent"}],
    "trigger": {"appId": "peer", "entity": "notes", "on": ["insert"]},
    "permissions": {"permissions": [{"key": "export"}]},
}
# Kept on purpose: what happened, and who may do what (contract 2.3).
KEPT = {"audit_log", "security_events", "agent_delegations", "users"}


@dataclass
class Database:
    """Looks for an app in every table of the platform."""

    engine: object

    def tables_naming(self, app_id):
        """Return the platform's tables with a row that has the app's id in a column or a key."""
        found = set()
        with self.engine.connect() as connection:
            names = connection.scalars(
                text("SELECT tablename FROM pg_tables WHERE schemaname = 'trellis'")
            ).all()
            for name in names:
                query = f'SELECT count(*) FROM trellis."{name}" t WHERE t::text ~ :word'
                if connection.scalar(text(query), {"word": rf"\m{app_id}\M"}):
                    found.add(name)
        return found


def fill(admin, platform):
    """Give an app something of everything."""
    install_agent(platform, admin, MANIFEST)
    path = "/apps/desk"
    assert admin.post(f"{path}/collections/notes", {"body": "x"}).status_code == 201
    assert admin.post(f"{path}/secrets", {"key": "K", "value": "v"}).status_code == 200
    assert admin.post(f"{path}/jobs", {"payload": {}}).status_code == 201
    hook = {"entity": "notes", "operation": "INSERT", "action_type": "job"}
    assert admin.post(f"{path}/hooks", hook).status_code == 200
    for where in ("storage/upload", "upload"):
        form = {"file": (io.BytesIO(b"x"), "a.txt")}
        sent = admin.request(
            "POST", f"{path}/{where}", data=form, content_type="multipart/form-data"
        )
        assert sent.status_code == 201, sent.json
    webhook = admin.get(f"{path}/webhooks").json[1]
    assert admin.http.post(webhook["url"], data=b"x").status_code == 503


def test_nothing_is_left_behind(admin, platform):
    database = Database(platform.engine)
    admin.post("/apps", {**MANIFEST, "appId": "peer", "name": "Peer", "trigger": None})
    before = database.tables_naming("desk")
    assert before <= KEPT
    fill(admin, platform)
    full = database.tables_naming("desk")
    assert {
        *("apps", "data_contracts", "rbac_roles", "rbac_assignments", "rbac_permissions"),
        *("secrets", "jobs_queue", "cron_schedules", "hooks", "webhooks", "files", "agents"),
    } <= full
    for _ in range(2):
        assert admin.delete("/apps/desk").json == {"message": "app 'desk' uninstalled"}
        assert database.tables_naming("desk") <= KEPT
    assert not list((platform.settings.data_dir / "uploads").glob("*"))
    assert admin.get("/apps/peer/hooks").json == []
    assert len(admin.get("/apps/peer/webhooks").json) == 2
    entries = admin.get("/audit?app_id=desk").json
    assert [(entry["operation"], entry["new_record"]["body"]) for entry in entries] == [
        ("INSERT", "x")
    ]
    fill(admin, platform)
    assert [note["body"] for note in admin.get("/apps/desk/collections/notes").json] == ["x"]
