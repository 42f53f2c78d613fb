"""What we say to identity providers: discovery, keys, the token endpoint, ID tokens.

Source: REST contract part 10, section 6.5; OpenID Connect Core 1.0 and Discovery 1.0.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import structlog
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from app.auth.oidc.rules import is_local_issuer
from app.core.errors import Failed, Unauthenticated
from app.core.outgoing import Outgoing, OutgoingError

log = structlog.get_logger(__name__)

Claims = Mapping[str, Any]  # Any: JSON values

CACHE_S = 3600
KEYS_REFETCH_S = 60
LEEWAY_S = 60
KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)
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
class _Keys:
    by_kid: Mapping[str | None, Sequence[jwk.Key]]
    fetched_at: float


class ProviderClient:
    """Talks to providers; keeps metadata and keys of each issuer for at most an hour."""

    def __init__(self, outgoing: Outgoing, now: Callable[[], float] = time.time) -> None:
        """Take the guarded client and the clock (seconds since the epoch)."""
        self._outgoing = outgoing
        self._now = now
        self._metadata: dict[str, tuple[float, Metadata]] = {}
        self._keys: dict[str, _Keys] = {}

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
        metadata = self.discover(registration.issuer_url)
        try:
            claims = self._signed_claims(metadata, id_token)
            _claims_registry(registration).validate(dict(claims))
            _check_party_and_nonce(claims, registration.client_id, nonce)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as exc:
            log.info("oidc_token_rejected", provider=registration.provider_id, reason=repr(exc))
            raise Unauthenticated(REJECTED) from exc
        return claims

    def _signed_claims(self, metadata: Metadata, id_token: str) -> Claims:
        lenient = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        header = jws.extract_compact(id_token.encode(), registry=lenient).headers()
        algorithm = header.get("alg")
        if algorithm not in metadata.algorithms:
            raise ValueError(f"algorithm {algorithm!r} is not allowed")
        key = self._key(metadata, header.get("kid"), KEY_TYPES[algorithm[:2]])
        return jwt.decode(id_token, key, algorithms=[algorithm], registry=lenient).claims

    def _key(self, metadata: Metadata, kid: object, key_type: str) -> jwk.Key:
        keys = self._current_keys(metadata)
        found = _choose(keys, kid, key_type)
        if found is None and self._now() - keys.fetched_at >= KEYS_REFETCH_S:
            found = _choose(self._fetch_keys(metadata), kid, key_type)
        if found is None:
            raise ValueError("no such key")
        return found

    def _current_keys(self, metadata: Metadata) -> _Keys:
        kept = self._keys.get(metadata.issuer)
        if kept is not None and self._now() - kept.fetched_at < CACHE_S:
            return kept
        return self._fetch_keys(metadata)

    def _fetch_keys(self, metadata: Metadata) -> _Keys:
        try:
            found = self._get(metadata.jwks_uri, metadata.issuer)
        except OutgoingError as exc:
            log.warning("oidc_keys_failed", reason=str(exc))
            raise Failed("identity provider not reachable") from exc
        keys = _Keys(_import_keys(found.get("keys")), self._now())
        self._keys[metadata.issuer] = keys
        return keys

    def _get(self, url: str, issuer_url: str) -> Mapping[str, Any]:
        answer = self._outgoing.request("GET", url, loopback=is_local_issuer(issuer_url))
        if answer.status != 200:
            raise OutgoingError(f"status {answer.status}")
        return _object(answer.json())

    def _post_form(
        self, registration: Registration, metadata: Metadata, form: Mapping[str, str]
    ) -> Mapping[str, Any]:
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


def _import_keys(found: object) -> Mapping[str | None, Sequence[jwk.Key]]:
    """Return usable public keys by key id; what cannot be read is skipped, as RFC 7517 asks."""
    by_kid: dict[str | None, list[jwk.Key]] = {}
    for entry in found if isinstance(found, list) else ():
        if not isinstance(entry, dict) or entry.get("kty") not in KEY_TYPES.values():
            continue
        if entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwk.import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        kid = entry.get("kid")
        by_kid.setdefault(kid if isinstance(kid, str) else None, []).append(key)
    return by_kid


def _choose(keys: _Keys, kid: object, key_type: str) -> jwk.Key | None:
    if kid is None:
        every = [key for group in keys.by_kid.values() for key in group]
        fitting = [key for key in every if key.key_type == key_type]
        return fitting[0] if len(fitting) == 1 else None
    group = keys.by_kid.get(kid, ()) if isinstance(kid, str) else ()
    return next((key for key in group if key.key_type == key_type), None)


def _claims_registry(registration: Registration) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(
        leeway=LEEWAY_S,
        iss={"essential": True, "value": registration.issuer_url},
        aud={"essential": True, "value": registration.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )


def _check_party_and_nonce(claims: Claims, client_id: str, nonce: str | None) -> None:
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        raise ValueError("azp is not our client id")
    if "\0" in claims["sub"]:
        raise ValueError("sub contains U+0000")
    if nonce is not None and not hmac.compare_digest(
        str(claims.get("nonce", "")).encode(), nonce.encode()
    ):
        raise ValueError("nonce differs")
