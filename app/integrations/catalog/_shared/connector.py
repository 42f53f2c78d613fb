"""What the integrations of the catalog share: results, errors, HTTP with retries.

Standard library only: an app process without dependencies starts at once and needs no package
index. This file is packed along with each integration.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

JSONObject = dict[str, Any]  # Any: JSON values
Action = Callable[["Call"], Any]  # Any: a JSON value

REJECTED = "INSUFFICIENT_PERMISSIONS"
TEMPORARY = "TEMPORARY_ERROR"
CURSOR = "SYNC_CURSOR_ERROR"
NOT_FOUND = "NOT_FOUND"
MISCONFIGURED = "MISCONFIGURED"
UNKNOWN = "UNKNOWN"

RETRIES_S = (1.0, 2.0, 4.0)
BUDGET_S = 25.0
MAX_BYTES = 7 * 1024 * 1024
MAX_TEXT = 500
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class ServiceError(Exception):
    """A failure at the service, as the platform's callers see it.

    Attributes:
        code: one of the codes above.
        status: the HTTP status, if there was one.
        retry_after: when to try again, in milliseconds since the epoch.
    """

    def __init__(
        self, code: str, message: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:MAX_TEXT]
        self.status = status
        self.retry_after = retry_after

    def result(self) -> JSONObject:
        """Return the result of an action that failed."""
        error: JSONObject = {"code": self.code, "message": self.message}
        if self.status is not None:
            error["status"] = self.status
        if self.retry_after is not None:
            error["retryAfter"] = self.retry_after
        return {"ok": False, "error": error}


class Call:
    """One action: its input, the configuration, the user's credentials, and what it may ask."""

    def __init__(self, params: Mapping[str, Any], ctx: Any = None) -> None:  # Any: the SDK's ctx
        self.ctx = ctx
        self.user_id: str | None = params.get("userId")
        self.connection_id: str | None = params.get("connectionId")
        self.input: JSONObject = params.get("input") or {}
        self.config: JSONObject = params.get("config") or {}
        self.credentials: JSONObject = params.get("userCredentials") or {}

    def given(self, *names: str) -> JSONObject:
        """Return the inputs of these names that are present."""
        return {name: self.input[name] for name in names if self.input.get(name) is not None}


def dispatcher(actions: Mapping[str, Action]) -> Callable[..., JSONObject]:
    """Return the ``__integration`` method of an integration with these actions."""

    def run(params: Mapping[str, Any], _caller: Any, ctx: Any) -> JSONObject:  # Any: the SDK's
        action = actions.get(str(params.get("action")))
        if action is None:
            return ServiceError(UNKNOWN, f"unknown action: {params.get('action')}").result()
        try:
            return {"ok": True, "data": action(Call(params, ctx))}
        except ServiceError as exc:
            return exc.result()

    return run


class Api:
    """A JSON service: retries what may be repeated, turns failures into ``ServiceError``.

    Args:
        base: address of the service.
        headers: sent with every request.
        explain: finds the service's own words in an error body.
        classify: gives the code for a status and an error body where ``code_of`` is too coarse.
    """

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        explain: Callable[[Any], str | None] = lambda _body: None,  # Any: a JSON value
        classify: Callable[[int, Any], str] = lambda status, _body: code_of(
            status
        ),  # Any: as above
    ) -> None:
        self._base = base.rstrip("/")
        self._headers = dict(headers)
        self._explain = explain
        self._classify = classify
        self._ends_at = time.monotonic() + BUDGET_S

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:  # Any: a JSON value
        """Return what a path answers."""
        return self.send("GET", path, query=query)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> Any:  # Any: JSON values
        """Send a body to a path and return the answer."""
        return self.send("POST", path, body=body, **kwargs)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,  # Any: a JSON value
        repeatable: bool | None = None,
    ) -> Any:  # Any: a JSON value
        """Send a request and return the JSON value of its answer, None for an empty one.

        A request that may have had an effect is repeated only if that is harmless, or if the
        service says it did not take it (429).

        Raises:
            ServiceError: the service cannot be reached or refuses.
        """
        again = method in REPEATABLE if repeatable is None else repeatable
        for pause_s in (*RETRIES_S, None):
            try:
                return self._once(method, self._url(path, query), body)
            except ServiceError as exc:
                tried = exc.status == 429 or (again and exc.code == TEMPORARY)
                if not tried or pause_s is None or not self._wait(pause_s, exc.retry_after):
                    raise
        raise AssertionError  # the last round returns or raises

    def _url(self, path: str, query: Mapping[str, Any] | None) -> str:
        url = path if path.startswith(("http://", "https://")) else f"{self._base}{path}"
        pairs = {k: _text(v) for k, v in (query or {}).items() if v is not None}
        if pairs:
            url += ("&" if "?" in url else "?") + urlencode(pairs, doseq=True)
        return url

    def _wait(self, pause_s: float, retry_after: int | None) -> bool:
        """Wait before another attempt; False when there is no time for one."""
        if retry_after is not None:
            pause_s = max(pause_s, retry_after / 1000 - time.time())
        if time.monotonic() + pause_s >= self._ends_at:
            return False
        time.sleep(pause_s)
        return True

    def _once(self, method: str, url: str, body: Any) -> Any:  # Any: JSON values
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", **self._headers}
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = Request(url, data, headers, method=method)  # noqa: S310 - an operator's address
        left_s = max(1.0, self._ends_at - time.monotonic())
        try:
            with OPENER.open(request, timeout=left_s) as answer:
                return _json(answer.read(MAX_BYTES + 1))
        except HTTPError as exc:
            with exc:
                raise self._refused(exc) from None
        except (URLError, OSError, http.client.HTTPException) as exc:
            raise ServiceError(TEMPORARY, f"the service cannot be reached: {exc}") from None

    def _refused(self, exc: HTTPError) -> ServiceError:
        try:
            body = json.loads(exc.read(MAX_BYTES))
        except (ValueError, OSError, http.client.HTTPException):
            body = None
        text = self._explain(body) or f"the service answered {exc.code}"
        retry_after = _moment(exc.headers.get("Retry-After"))
        code = self._classify(exc.code, body)
        return ServiceError(code, text, status=exc.code, retry_after=retry_after)


def code_of(status: int) -> str:
    """Return the code for an HTTP status."""
    if status in {401, 403}:
        return REJECTED
    if status == 404:
        return NOT_FOUND
    if status == 410:
        return CURSOR
    return TEMPORARY if status == 429 or status >= 500 else UNKNOWN


def segment(text: object) -> str:
    """Return a text as one segment of a path."""
    return quote(str(text), safe="")


def _json(raw: bytes) -> Any:  # Any: a JSON value
    if len(raw) > MAX_BYTES:
        raise ServiceError(UNKNOWN, "the service's answer is too large")
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except ValueError:
        raise ServiceError(TEMPORARY, "the service's answer is not JSON") from None


def _text(value: Any) -> Any:  # Any: a JSON value
    return str(value).lower() if isinstance(value, bool) else value


def _moment(header: str | None) -> int | None:
    """Return a ``Retry-After`` header as milliseconds since the epoch."""
    if header is None:
        return None
    if header.strip().isdigit():
        return int((time.time() + int(header)) * 1000)
    try:
        return int(email.utils.parsedate_to_datetime(header).timestamp() * 1000)
    except (TypeError, ValueError):
        return None


class _NoRedirects(HTTPRedirectHandler):
    """Follows nothing: a redirect would carry the credentials along."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:  # Any: urllib's signature
        """Refuse."""
        return


OPENER = build_opener(_NoRedirects())
