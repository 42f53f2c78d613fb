"""Record endpoints. Bodies and answers are JSON text that passes through.

Source: REST contract part 20, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from flask import Response, request, stream_with_context

from app.core.uow import UnitOfWork
from app.data import service
from app.data.errors import StaleContract
from app.data.schemas import RecordOut, query_parameters
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.nobody import is_nobody
from app.http.parsing import parse_json
from app.http.schemas import MessageOut
from app.http.views import View

blp = Blueprint("data", __name__, description="Records of apps")

BASE = f"{PREFIX}/apps/<app_id>/collections/<entity>"
JSONValue = Any  # a JSON value
T = TypeVar("T")


class DataView(View):
    """A view on records; a data contract that changed in between is read again."""

    def attempt(self, work: Callable[[UnitOfWork], T], app_id: str | None = None) -> T:
        """Run work in the request's unit of work; if the tables just changed, in a new one.

        Tried by memory, it is one statement that checks contract and authority itself.

        Args:
            work: what to do.
            app_id: the app whose installs wait for the second try, so that it cannot fail too.
        """
        if self.by_memory:
            with self.platform.uow.single() as uow:
                return work(uow)
        try:
            return work(self.uow)
        except StaleContract:
            with self.platform.uow() as uow:
                if app_id is not None:
                    service.hold_contract(uow, app_id)
                return work(uow)

    def body(self, app_id: str, entity: str, action: str) -> JSONValue:
        """Return the JSON body; nobody learns what is wrong with one before being let in."""
        if self.actor.user_id is None:
            service.require_public(self.uow.session, app_id=app_id, entity=entity, action=action)
        return parse_json(request.get_data())

    @property
    def limit(self) -> timedelta:
        """The statement limit."""
        return self.platform.settings.database.statement_timeout


def json_answer(text: str, status: int = 200) -> Response:
    """Return JSON text as it is."""
    return Response(text, status=status, content_type="application/json")


@blp.route(BASE)
class Records(DataView):
    """Records of an entity."""

    @property
    def transactional(self) -> bool:  # type: ignore[override]
        """Whether the request fits in one unit of work: a list of everything streams."""
        return request.method == "POST" or "limit" in request.args or is_nobody(request)

    @gates.in_service("app:{appId}:{entity}.read", nobody=True, by_memory=True)
    @blp.response(200, RecordOut(many=True))
    @blp.doc(summary="List records", parameters=query_parameters())
    def get(self, app_id: str, entity: str) -> Response:
        """Return a page, or everything as a stream when there is no limit."""
        parameters = {name: values[-1] for name, values in request.args.lists()}
        if self.actor.user_id is None:
            # A slow reader of a stream holds a database connection: not for everybody.
            parameters.setdefault("limit", str(service.MAX_LIMIT))
        if self.transactional:
            return json_answer(
                self.attempt(
                    lambda uow: service.list_page(
                        uow,
                        self.actor,
                        app_id=app_id,
                        entity=entity,
                        parameters=parameters,
                        statement_timeout=self.limit,
                    ),
                    app_id,
                )
            )
        return self._stream(
            lambda hold: service.open_list(
                self.platform.uow,
                self.actor,
                app_id=app_id,
                entity=entity,
                parameters=parameters,
                hold=hold,
                statement_timeout=self.limit,
            )
        )

    @gates.in_service("app:{appId}:{entity}.create", nobody=True, by_memory=True)
    @blp.response(201, RecordOut)
    @blp.doc(summary="Create a record")
    def post(self, app_id: str, entity: str) -> Response:
        """Store a record."""
        body = self.body(app_id, entity, "create")
        return json_answer(
            self.attempt(
                lambda uow: service.create(
                    uow,
                    self.actor,
                    app_id=app_id,
                    entity=entity,
                    body=body,
                    statement_timeout=self.limit,
                ),
                app_id,
            ),
            201,
        )

    @staticmethod
    def _stream(open_list: Callable[[bool], Iterator[str]]) -> Response:
        pieces = open_list(False)
        try:
            first = next(pieces)
        except StaleContract:
            pieces = open_list(True)
            first = next(pieces)

        def body() -> Iterator[str]:
            try:
                yield first
                yield from pieces
            finally:
                pieces.close()  # type: ignore[attr-defined]

        return Response(stream_with_context(body()), content_type="application/json")


@blp.route(f"{BASE}/query")
class RecordQuery(DataView):
    """Records by condition."""

    @gates.in_service("app:{appId}:{entity}.read", nobody=True, by_memory=True)
    @blp.doc(summary="Query records")
    def post(self, app_id: str, entity: str) -> Response:
        """Return a page and the total."""
        body = self.body(app_id, entity, "list")
        return json_answer(
            self.attempt(
                lambda uow: service.query(
                    uow,
                    self.actor,
                    app_id=app_id,
                    entity=entity,
                    body=body,
                    statement_timeout=self.limit,
                ),
                app_id,
            )
        )


@blp.route(f"{BASE}/bulk")
class RecordBulk(DataView):
    """Many records at once."""

    @gates.in_service("app:{appId}:{entity}.create")
    @blp.response(201, RecordOut(many=True))
    @blp.doc(summary="Create up to 1000 records, all or none")
    def post(self, app_id: str, entity: str) -> Response:
        """Store the records."""
        body = parse_json(request.get_data())
        return json_answer(
            self.attempt(
                lambda uow: service.bulk(
                    uow,
                    self.actor,
                    app_id=app_id,
                    entity=entity,
                    body=body,
                    statement_timeout=self.limit,
                ),
                app_id,
            ),
            201,
        )


@blp.route(f"{BASE}/<record_id>")
class Record(DataView):
    """One record."""

    @gates.in_service("app:{appId}:{entity}.read", nobody=True, by_memory=True)
    @blp.response(200, RecordOut)
    @blp.doc(summary="Get a record")
    def get(self, app_id: str, entity: str, record_id: str) -> Response:
        """Return the record."""
        return json_answer(
            self.attempt(
                lambda uow: service.get(
                    uow,
                    self.actor,
                    app_id=app_id,
                    entity=entity,
                    record_id=record_id,
                    statement_timeout=self.limit,
                ),
                app_id,
            )
        )

    @gates.in_service("app:{appId}:{entity}.update", nobody=True, by_memory=True)
    @blp.response(200, RecordOut)
    @blp.doc(summary="Change the fields that are sent")
    def patch(self, app_id: str, entity: str, record_id: str) -> Response:
        """Change the record."""
        body = self.body(app_id, entity, "update")
        return json_answer(
            self.attempt(
                lambda uow: service.patch(
                    uow,
                    self.actor,
                    app_id=app_id,
                    entity=entity,
                    record_id=record_id,
                    body=body,
                    statement_timeout=self.limit,
                ),
                app_id,
            )
        )

    @gates.in_service("app:{appId}:{entity}.delete", nobody=True, by_memory=True)
    @blp.response(200, MessageOut)
    @blp.doc(summary="Delete a record")
    def delete(self, app_id: str, entity: str, record_id: str) -> dict[str, str]:
        """Delete the record."""
        self.attempt(
            lambda uow: service.delete(
                uow,
                self.actor,
                app_id=app_id,
                entity=entity,
                record_id=record_id,
                statement_timeout=self.limit,
            ),
            app_id,
        )
        return {"message": f"record '{record_id}' deleted"}


@blp.route(f"{PREFIX}/federated/<identity_kind>/query")
class FederatedQuery(DataView):
    """Records of every app that describe one kind of thing."""

    @gates.signed_in
    @blp.doc(summary="Query the records of all apps with one identity kind")
    def post(self, identity_kind: str) -> Response:
        """Return a page of what the caller may read, and the total."""
        body = parse_json(request.get_data())
        return json_answer(
            self.attempt(
                lambda uow: service.federated_query(
                    uow,
                    self.actor,
                    identity_kind=identity_kind,
                    body=body,
                    statement_timeout=self.limit,
                )
            )
        )
