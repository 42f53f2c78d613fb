"""What we say to authorization servers: the login address, the token endpoint, who logged in.

Source: REST contract part 40, section 5.7; RFC 6749, 7009 and 7636.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from app.core.outgoing import Outgoing, OutgoingError, is_loopback_host
from app.integrations.installed import Integration

FIELD = re.compile(r"\{(\w+)(?:\|([^{}]*))?\}")
TIMEOUT_S = 10.0
REFUSED = frozenset({400, 401})
MAX_TEXT = 300

JSONObject = dict[str, Any]  # Any: JSON values


class TokenRefused(Exception):
    """The authorization server says no: the grant is worth nothing any more."""


class TokenUnavailable(Exception):
    """The authorization server cannot be reached or does not work right now."""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """The OAuth client of one configuration of an integration.

    Attributes:
        config: the whole configuration.
        stored: the fields an administrator set; only these may name this machine.
    """

    integration: Integration
    config: Mapping[str, Any]  # Any: JSON values
    stored: Mapping[str, Any]  # Any: as above
    outgoing: Outgoing

    @property
    def rules(self) -> Mapping[str, Any]:  # Any: JSON values
        """The manifest's ``userAuth.oauth2``."""
        return self.integration.oauth2 or {}

    def authorization_url(self, *, callback: str, state: str, verifier: str) -> str:
        """Return where to send the browser."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        extra = {name: str(value) for name, value in (self.rules.get("extraParams") or {}).items()}
        url: str = prepare_grant_uri(
            self._url("authorizeUrl"),
            client_id=self._client_id,
            response_type="code",
            redirect_uri=callback,
            scope=" ".join(self._scopes()),
            state=state,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **extra,
        )
        return url

    def exchange(self, *, code: str, callback: str, verifier: str) -> JSONObject:
        """Return the token endpoint's answer to an authorization code.

        Raises:
            TokenRefused, TokenUnavailable: there is none.
        """
        return self._ask_token(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": callback,
                "code_verifier": verifier,
            }
        )

    def refresh(self, refresh_token: str | None) -> JSONObject:
        """Return the token endpoint's answer to a refresh token.

        Raises:
            TokenRefused, TokenUnavailable: there is none.
        """
        if not refresh_token:
            raise TokenRefused("the login has expired")
        return self._ask_token({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def revoke(self, token: str) -> None:
        """Tell the server that a token is given up.

        Raises:
            OutgoingError: it could not be told.
        """
        if self.rules.get("revokeUrl"):
            headers, form = self._authenticated({"token": token})
            self._post(self._url("revokeUrl"), headers, form)

    def account(self, answer: Mapping[str, Any]) -> str | None:  # Any: JSON values
        """Return the name of the account that logged in, as the manifest says where to look."""
        wanted = self.rules.get("label") or {}
        claim = str(wanted.get("claim") or "email")
        if wanted.get("from") == "userinfo":
            claims = self._userinfo(str(answer["access_token"]))
        else:
            claims = _unverified_claims(answer.get("id_token"))
        found = claims.get(claim)
        return found if isinstance(found, str) and found else None

    # --- inside --------------------------------------------------------------------------------

    @property
    def _client_id(self) -> str:
        return str(self.config.get(str(self.rules.get("clientIdField") or "clientId")) or "")

    @property
    def _secret(self) -> str:
        field = str(self.rules.get("clientSecretField") or "clientSecret")
        return str(self.config.get(field) or "")

    def _scopes(self) -> list[str]:
        """Return the scopes; an object entry counts when its ``if`` field is set."""
        wanted: list[str] = []
        for entry in self.rules.get("scopes") or ():
            if isinstance(entry, str):
                wanted.append(entry)
            elif isinstance(entry, Mapping) and self.config.get(str(entry.get("if"))):
                wanted.append(str(entry.get("scope")))
        return wanted

    def _url(self, name: str) -> str:
        return self._expanded(str(self.rules.get(name) or ""))

    def _expanded(self, template: str) -> str:
        """Return an address with ``{field}`` or ``{field|default}`` filled in."""

        def value(match: re.Match[str]) -> str:
            if match[1] in self.integration.secrets:
                return ""
            return str(self.config.get(match[1]) or match[2] or "").rstrip("/")

        return FIELD.sub(value, template)

    def _local(self, url: str) -> bool:
        """Tell whether an administrator's own setting points at this machine."""
        if not is_loopback_host(urlsplit(url).hostname or ""):
            return False
        settings = [str(value).rstrip("/") for value in self.stored.values() if value]
        return any(text.startswith("http") and url.startswith(f"{text}/") for text in settings)

    def _authenticated(self, form: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return headers and form of a request that says who we are."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self.rules.get("clientAuth") == "basic" and self._secret:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            return headers, form
        form = {**form, "client_id": self._client_id}
        return headers, form | ({"client_secret": self._secret} if self._secret else {})

    def _post(self, url: str, headers: dict[str, str], form: dict[str, str]) -> tuple[int, Any]:
        answer = self.outgoing.request(
            "POST",
            url,
            headers=headers,
            body=urlencode(form).encode(),
            timeout_s=TIMEOUT_S,
            loopback=self._local(url),
        )
        try:
            return answer.status, answer.json()
        except OutgoingError:
            return answer.status, None

    def _ask_token(self, form: dict[str, str]) -> JSONObject:
        try:
            status, body = self._post(self._url("tokenUrl"), *self._authenticated(form))
        except OutgoingError as exc:
            raise TokenUnavailable("the login service cannot be reached") from exc
        code = body.get("error") if isinstance(body, dict) else None
        if status in REFUSED or code == "invalid_grant":
            raise TokenRefused(f"the login service refused: {str(code or status)[:MAX_TEXT]}")
        token = body.get("access_token") if isinstance(body, dict) else None
        if status != 200 or not isinstance(token, str) or not token:
            raise TokenUnavailable(f"the login service answered {status}")
        return dict(body)

    def _userinfo(self, access_token: str) -> Mapping[str, Any]:  # Any: JSON values
        url = self._expanded(str((self.rules.get("label") or {}).get("url") or ""))
        headers = {"Authorization": f"Bearer {access_token}"}
        try:
            answer = self.outgoing.request(
                "GET", url, headers=headers, timeout_s=TIMEOUT_S, loopback=self._local(url)
            )
            claims = answer.json() if answer.status == 200 else {}
        except OutgoingError:
            return {}
        return claims if isinstance(claims, dict) else {}


def credentials_of(answer: Mapping[str, Any]) -> JSONObject:  # Any: JSON values
    """Return what is kept of a token endpoint's answer; ``expires_at`` is Unix time or None."""
    lifetime = answer.get("expires_in")
    try:
        seconds = None if lifetime is None else int(lifetime)
    except (TypeError, ValueError):
        seconds = None
    kept: JSONObject = {
        "access_token": answer["access_token"],
        "expires_at": None if seconds is None else int(time.time()) + seconds,
        "scope": answer.get("scope"),
        "token_type": answer.get("token_type") or "Bearer",
    }
    if answer.get("refresh_token"):
        kept["refresh_token"] = answer["refresh_token"]
    return kept


def _unverified_claims(token: Any) -> Mapping[str, Any]:  # Any: JSON values
    """Return the claims of an ID token.

    It came from the token endpoint over TLS in answer to our code, so its signature need not be
    checked (OpenID Connect Core 3.1.3.7, point 6); it only names the account.
    """
    try:
        middle = str(token).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
