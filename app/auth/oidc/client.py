"""What we say to identity providers: discovery, keys, the token endpoint, ID tokens.

Source: REST contract part 10, section 6.5; OpenID Connect Core 1.0 and Discovery 1.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import structlog

from app.auth.oidc.rules import ALGORITHMS, Claims, is_local_issuer
from app.core.errors import Failed, Unauthenticated
from app.core.outgoing import Outgoing, OutgoingError

if TYPE_CHECKING:
    from joserfc.jwk import Key

    from app.auth.oidc.id_tokens import Keys

log = structlog.get_logger(__name__)

CACHE_S = 3600
KEYS_REFETCH_S = 60
REJECTED = "id_token was rejected"
WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Registration:
    """How we are known to a provider.

    Attributes:
        client_secret: None for a public client.
    """

    provider_id: str
    issuer_url: str
    client_id: str
    client_secret: str | None = None
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a provider's discovery document says, as far as we need it."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: tuple[str, ...]
    token_auth_methods: tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    keys: Keys
    fetched_at: float


class ProviderClient:
    """Talks to providers; keeps metadata and keys of each issuer for at most an hour."""

    def __init__(self, outgoing: Outgoing, now: Callable[[], float] = time.time) -> None:
        """Take the guarded client and the clock (seconds since the epoch)."""
        self._outgoing = outgoing
        self._now = now
        self._metadata: dict[str, tuple[float, Metadata]] = {}
        self._keys: dict[str, _Kept] = {}

    def forget(self, issuer_url: str) -> None:
        """Drop what is cached of an issuer."""
        self._metadata.pop(issuer_url, None)
        self._keys.pop(issuer_url, None)

    def discover(self, issuer_url: str) -> Metadata:
        """Return a provider's metadata.

        Raises:
            Failed: it could not be loaded or is not usable.
        """
        kept = self._metadata.get(issuer_url)
        if kept is not None and self._now() - kept[0] < CACHE_S:
            return kept[1]
        try:
            metadata = self.load_metadata(issuer_url)
        except OutgoingError as exc:
            log.warning("oidc_discovery_failed", reason=str(exc))
            raise Failed("identity provider not reachable") from exc
        if metadata.issuer != issuer_url:
            raise Failed("identity provider not reachable")
        self._metadata[issuer_url] = (self._now(), metadata)
        return metadata

    def load_metadata(self, issuer_url: str) -> Metadata:
        """Fetch the discovery document, past the cache.

        Raises:
            OutgoingError: it could not be loaded or lacks what we need.
        """
        found = self._get(issuer_url.rstrip("/") + WELL_KNOWN, issuer_url)
        names = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
        if any(not isinstance(found.get(name), str) for name in names):
            raise OutgoingError("discovery document is incomplete")
        return Metadata(
            issuer=found["issuer"],
            authorization_endpoint=found["authorization_endpoint"],
            token_endpoint=found["token_endpoint"],
            jwks_uri=found["jwks_uri"],
            algorithms=_allowed(found.get("id_token_signing_alg_values_supported")),
            token_auth_methods=_texts(found.get("token_endpoint_auth_methods_supported")),
        )

    def authorization_url(
        self,
        registration: Registration,
        *,
        callback: str,
        state: str,
        nonce: str,
        pkce_verifier: str,
    ) -> str:
        """Return where to send the browser.

        Raises:
            Failed: the provider cannot be reached.
        """
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        metadata = self.discover(registration.issuer_url)
        url: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            client_id=registration.client_id,
            response_type="code",
            redirect_uri=callback,
            scope=" ".join(dict.fromkeys(("openid", *registration.scopes))),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(pkce_verifier),
            code_challenge_method="S256",
        )
        return url

    def exchange_code(
        self, registration: Registration, *, code: str, callback: str, pkce_verifier: str
    ) -> str:
        """Swap an authorization code for an ID token.

        Raises:
            Failed: the provider's metadata cannot be loaded.
            Unauthenticated: the code was refused, or no ID token came back.
        """
        metadata = self.discover(registration.issuer_url)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": pkce_verifier,
        }
        try:
            answer = self._post_form(registration, metadata, form)
        except OutgoingError as exc:
            log.info("oidc_code_refused", provider=registration.provider_id, reason=str(exc))
            raise Unauthenticated("authorization code was refused") from exc
        id_token = answer.get("id_token")
        if not (isinstance(id_token, str) and id_token):
            raise Unauthenticated("no id_token returned")
        return id_token

    def verify(
        self, registration: Registration, id_token: str, *, nonce: str | None = None
    ) -> Claims:
        """Return the claims of an ID token.

        Args:
            registration: who must have issued it, and for whom.
            id_token: the compact JWT.
            nonce: what the token must repeat; None: not compared.

        Raises:
            Unauthenticated: any rule of section 6.5 is violated.
            Failed: metadata or keys cannot be loaded.
        """
        from app.auth.oidc import id_tokens

        metadata = self.discover(registration.issuer_url)
        try:
            claims = id_tokens.signed_claims(
                id_token, allowed=metadata.algorithms, key=partial(self._key, metadata)
            )
            id_tokens.check(
                claims,
                issuer_url=registration.issuer_url,
                client_id=registration.client_id,
                nonce=nonce,
            )
        except id_tokens.FAULTS as exc:
            log.info("oidc_token_rejected", provider=registration.provider_id, reason=repr(exc))
            raise Unauthenticated(REJECTED) from exc
        return claims

    def _key(self, metadata: Metadata, kid: object, key_type: str) -> Key:
        kept = self._current_keys(metadata)
        found = kept.keys.choose(kid, key_type)
        if found is None and self._now() - kept.fetched_at >= KEYS_REFETCH_S:
            found = self._fetch_keys(metadata).keys.choose(kid, key_type)
        if found is None:
            raise ValueError("no such key")
        return found

    def _current_keys(self, metadata: Metadata) -> _Kept:
        kept = self._keys.get(metadata.issuer)
        if kept is not None and self._now() - kept.fetched_at < CACHE_S:
            return kept
        return self._fetch_keys(metadata)

    def _fetch_keys(self, metadata: Metadata) -> _Kept:
        from app.auth.oidc.id_tokens import Keys

        try:
            found = self._get(metadata.jwks_uri, metadata.issuer)
        except OutgoingError as exc:
            log.warning("oidc_keys_failed", reason=str(exc))
            raise Failed("identity provider not reachable") from exc
        kept = _Kept(Keys(found.get("keys")), self._now())
        self._keys[metadata.issuer] = kept
        return kept

    def _get(self, url: str, issuer_url: str) -> Mapping[str, Any]:
        answer = self._outgoing.request("GET", url, loopback=is_local_issuer(issuer_url))
        if answer.status != 200:
            raise OutgoingError(f"status {answer.status}")
        return _object(answer.json())

    def _post_form(
        self, registration: Registration, metadata: Metadata, form: Mapping[str, str]
    ) -> Mapping[str, Any]:
        from authlib.oauth2.auth import ClientAuth

        method = "none"
        if registration.client_secret is not None:
            offered = metadata.token_auth_methods or ("client_secret_basic",)
            basic = "client_secret_basic" in offered or "client_secret_post" not in offered
            method = "client_secret_basic" if basic else "client_secret_post"
        auth = ClientAuth(registration.client_id, registration.client_secret, method)
        url, headers, body = auth.prepare(
            "POST",
            metadata.token_endpoint,
            {"Content-Type": "application/x-www-form-urlencoded"},
            urlencode(form),
        )
        answer = self._outgoing.request(
            "POST",
            url,
            headers=headers,
            body=body.encode(),
            loopback=is_local_issuer(registration.issuer_url),
        )
        if answer.status != 200:
            raise OutgoingError(f"status {answer.status}")
        return _object(answer.json())


def _allowed(advertised: object) -> tuple[str, ...]:
    if not isinstance(advertised, list):
        return ALGORITHMS
    return tuple(name for name in ALGORITHMS if name in advertised)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OutgoingError("answer is no JSON object")
    return value
