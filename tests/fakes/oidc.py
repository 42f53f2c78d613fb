"""A whole identity provider on loopback that can misbehave on request."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwk, jws, jwt

CLIENT_ID = "trellis"
CLIENT_SECRET = "s3cret"


def rsa_key(kid: str) -> jwk.RSAKey:
    """Return a new signing key."""
    return jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig"}, auto_kid=False)


@cache
def _usual_key() -> jwk.RSAKey:
    """Return the key of every provider that has no other; making one takes longer than a test."""
    return rsa_key("k1")


@dataclass
class FakeProvider:
    """State and switches of the provider; set attributes to make it misbehave.

    ``claims`` is merged into every ID token; a value of None removes the claim.
    """

    url: str = ""
    issuer: str | None = None
    key: jwk.RSAKey = field(default_factory=_usual_key)
    published: list[jwk.RSAKey] | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    raw_discovery: tuple[int, bytes, dict[str, str]] | None = None
    keys_status: int = 200
    token_status: int = 200
    token_answer: dict[str, Any] | None = None
    id_token: str | None = None
    public_client: bool = False
    requests: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer or self.url,
            "authorization_endpoint": f"{self.url}/authorize?tenant=x",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.metadata,
        }

    def jwks(self) -> dict[str, Any]:
        keys = [self.key] if self.published is None else self.published
        return {"keys": [key.as_dict(private=False) for key in keys]}

    def sign(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """Return an ID token; see ``claims``."""
        now = int(time.time())
        merged = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": "subject-1",
            "email": "nora@acme.test",
            "preferred_username": "nora",
            "iat": now,
            "exp": now + 300,
            **self.claims,
            **claims,
        }
        merged = {name: value for name, value in merged.items() if value is not None}
        signer = key or self.key
        header = {"alg": "RS256", "kid": signer.kid, **(header or {})}
        lenient = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
        if header["kid"] is None:
            del header["kid"]
        return jwt.encode(header, merged, signer, registry=lenient)

    def log_in(self, authorization_url: str) -> str:
        """Play the browser at the login page; return the callback URL with its query."""
        query = {k: v[0] for k, v in parse_qs(urlsplit(authorization_url).query).items()}
        assert query["response_type"] == "code"
        assert query["tenant"] == "x"
        code = f"code{len(self.codes)}"
        self.codes[code] = query
        return f"{query['redirect_uri']}?" + urlencode({"code": code, "state": query["state"]})

    def token(self, form: dict[str, str], authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Answer the token endpoint by the book: client, code, redirect and PKCE must fit."""
        if self.token_answer is not None or self.token_status != 200:
            return self.token_status, self.token_answer or {"error": "server_error"}
        if self.public_client:
            known = authorization is None and form.get("client_id") == CLIENT_ID
        else:
            expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
            known = authorization == f"Basic {expected}"
        if not known:
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if challenge != asked["code_challenge"] or asked["code_challenge_method"] != "S256":
            return 400, {"error": "invalid_grant"}
        token = self.id_token or self.sign(**{"nonce": asked["nonce"], **self.claims})
        return 200, {"id_token": token, "access_token": "x", "token_type": "Bearer"}


@contextmanager
def running_provider() -> Iterator[FakeProvider]:
    """Serve a provider on a free loopback port."""
    provider = FakeProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            provider.requests.append(path)
            if path == "/.well-known/openid-configuration":
                if provider.raw_discovery is not None:
                    self.answer(*provider.raw_discovery)
                else:
                    self.json(200, provider.discovery())
            elif path == "/keys":
                self.json(provider.keys_status, provider.jwks())
            else:
                self.json(404, {})

        def do_POST(self) -> None:
            provider.requests.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {k: v[0] for k, v in parse_qs(body).items()}
            self.json(*provider.token(form, self.headers.get("Authorization")))

        def json(self, status: int, value: Any) -> None:
            self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
