"""Endpoints of the database browser.

Source: REST contract part 20, section 13.
"""

from __future__ import annotations

from typing import Any

from flask import Response

from app.data import browser
from app.data.routes import json_answer
from app.data.schemas import Select, SelectOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("browser", __name__, description="Database browser, read only")


@blp.route(f"{PREFIX}/db/schemas")
class Schemas(View):
    """Schemas of the database."""

    @gates.signed_in
    @blp.doc(summary="List the schemas of the database")
    def get(self) -> Response:
        """Return the platform's own first, for those who may query, then public, then by name."""
        return json_answer(browser.schemas(self.uow.session, self.actor))


@blp.route(f"{PREFIX}/db/schemas/<schema>/tables")
class Tables(View):
    """Tables of a schema."""

    @gates.in_service("signed-in; system schemas: admin:db.query")
    @blp.doc(summary="List the tables of a schema with their columns")
    def get(self, schema: str) -> Response:
        """Return tables by name; none for a schema that does not exist."""
        return json_answer(browser.tables(self.uow.session, self.actor, schema))


@blp.route(f"{PREFIX}/db/query")
class Query(View):
    """SELECTs."""

    transactional = False

    @gates.permission(browser.MAY_QUERY)
    @blp.arguments(Select)
    @blp.response(200, SelectOut)
    @blp.doc(summary="Run one SELECT; at most 500 rows are returned")
    def post(self, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Return columns and rows."""
        from app.data import selects

        return selects.run(self.platform, statement=body["sql"], schema=body["schema"])
