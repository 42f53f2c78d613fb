"""ID tokens: the keys that sign them, and what must hold of them.

Source: REST contract part 10, section 6.5; OpenID Connect Core 1.0; RFC 7517.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from app.auth.oidc.rules import ALGORITHMS, Claims

LEEWAY_S: Final = 60
KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
FAULTS: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError)
"""What reading or checking a token may raise, none of it a fault of ours."""


class Keys:
    """A provider's usable public keys."""

    def __init__(self, found: object) -> None:
        """Read ``keys`` of a key set; what cannot be read is skipped, as RFC 7517 asks."""
        self._by_kid: dict[str | None, list[jwk.Key]] = {}
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
            self._by_kid.setdefault(kid if isinstance(kid, str) else None, []).append(key)

    def choose(self, kid: object, key_type: str) -> jwk.Key | None:
        """Return the key of an id; without an id the only one of its type."""
        if kid is None:
            every = [key for group in self._by_kid.values() for key in group]
            fitting = [key for key in every if key.key_type == key_type]
            return fitting[0] if len(fitting) == 1 else None
        group = self._by_kid.get(kid, ()) if isinstance(kid, str) else ()
        return next((key for key in group if key.key_type == key_type), None)


def signed_claims(
    id_token: str, *, allowed: tuple[str, ...], key: Callable[[object, str], jwk.Key]
) -> Claims:
    """Return the claims of a token whose signature is right.

    Args:
        id_token: the compact JWT.
        allowed: algorithms of its provider.
        key: finds the key by its id and type.

    Raises:
        one of ``FAULTS``: there is something wrong with the token.
    """
    lenient = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    header = jws.extract_compact(id_token.encode(), registry=lenient).headers()
    algorithm = header.get("alg")
    if algorithm not in allowed:
        raise ValueError(f"algorithm {algorithm!r} is not allowed")
    found = key(header.get("kid"), KEY_TYPES[algorithm[:2]])
    return jwt.decode(id_token, found, algorithms=[algorithm], registry=lenient).claims


def check(claims: Claims, *, issuer_url: str, client_id: str, nonce: str | None) -> None:
    """Check who issued a token, for whom and when.

    Args:
        claims: of a token with a right signature.
        issuer_url: who must have issued it.
        client_id: for whom.
        nonce: what it must repeat; None: not compared.

    Raises:
        one of ``FAULTS``: a rule is violated.
    """
    jwt.JWTClaimsRegistry(
        leeway=LEEWAY_S,
        iss={"essential": True, "value": issuer_url},
        aud={"essential": True, "value": client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    ).validate(dict(claims))
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        raise ValueError("azp is not our client id")
    if "\0" in claims["sub"]:
        raise ValueError("sub contains U+0000")
    if nonce is not None and not hmac.compare_digest(
        str(claims.get("nonce", "")).encode(), nonce.encode()
    ):
        raise ValueError("nonce differs")
