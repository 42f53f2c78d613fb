"""The audit endpoint.

Source: REST contract part 20, section 12.2.
"""

from __future__ import annotations

from flask import Response, request

from app.audit import service
from app.audit.schemas import AuditEntryOut
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("audit", __name__, description="The audit log")

SECURITY = "security"
PARAMETERS = [
    {"in": "query", "name": name, "schema": {"type": "string"}, "description": text}
    for name, text in {
        "app_id": "app",
        "entity": "entity",
        "record_id": "also __neq, __contains, __gte, __lte",
        "operation": "INSERT, UPDATE or DELETE",
        "changed_at": "also __neq, __contains, __gte, __lte",
        "before": "only entries with a smaller id",
        "limit": "1 to 1000, 100 unless given",
        "order_by": "column to sort by",
        "order": "asc or desc",
        "source": "`security`: sign-ins and changes of authority instead of row changes",
    }.items()
]


@blp.route(f"{PREFIX}/audit")
class Audit(View):
    """Row changes of all apps, and security events."""

    @gates.permission("admin:audit.read")
    @blp.response(200, AuditEntryOut(many=True))
    @blp.doc(summary="Query the audit log", parameters=PARAMETERS)
    def get(self) -> Response:
        """Return entries, newest first."""
        parameters = {name: values[-1] for name, values in request.args.lists()}
        ask = service.security_events if parameters.get("source") == SECURITY else service.entries
        return Response(ask(self.uow.session, parameters), content_type="application/json")
