"""Single sign-on against a provider nobody here wrote: the certified ``oidc-provider``."""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from tests.support.api import ApiClient, error

CALLBACK = "http://localhost:9100/api/v1/auth/oidc/callback"
SPA = "http://127.0.0.1:5173/app"
SCRIPT = Path(__file__).parents[2] / "support" / "oidc_provider" / "provider.mjs"
INSTALLED = Path(sys.prefix) / "oidc-provider"

pytestmark = [
    pytest.mark.npm,
    pytest.mark.skipif(
        not (INSTALLED / "installed").exists() or shutil.which("node") is None,
        reason="oidc-provider is not installed: .ci/oidc-provider does it, given npm and network",
    ),
]


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """Run the provider on a free port; return its issuer URL."""
    command = ["node", str(SCRIPT), str(INSTALLED), CALLBACK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def sso(admin, issuer):
    """Save the provider under two ids: as a client with a secret, and as a public one."""
    for client_id, secret in (("trellis", "s3cret"), ("public", "")):
        body = {
            "id": client_id,
            "displayName": client_id,
            "issuerUrl": issuer,
            "clientId": client_id,
            "clientSecret": secret,
        }
        answer = admin.post("/auth/oidc/providers", body)
        assert answer.status_code == 200, answer.json
    return issuer


class Browser:
    """A person at the provider's pages: types a name, consents, or cancels."""

    def __init__(self):
        self.http = httpx.Client(timeout=20)

    def visit(self, url, name=None):
        """Go on until the provider sends the browser back; return that address."""
        answer = self.http.get(url)
        while True:
            location = answer.headers.get("Location")
            if location is None:
                answer = self._fill_in(answer, name)
            elif location.startswith(CALLBACK):
                return location
            else:
                answer = self.http.get(answer.url.join(location))

    def _fill_in(self, page, name):
        assert page.status_code == 200, page.text
        if name is None:
            return self.http.get(re.search(r'href="([^"]+/abort)"', page.text)[1])
        action = re.search(r'action="([^"]+)"', page.text)[1]
        prompt = re.search(r'name="prompt" value="(\w+)"', page.text)[1]
        return self.http.post(action, data={"prompt": prompt, "login": name, "password": "x"})


@pytest.fixture
def browser():
    browser = Browser()
    yield browser
    browser.http.close()


def sign_in(client, browser, name, provider_id="trellis", **query):
    started = client.get(f"/auth/oidc/{provider_id}/authorize", query_string=query)
    assert started.status_code == 307, started.json
    back = browser.visit(started.headers["Location"], name)
    return client.get(f"/auth/oidc/callback?{urlsplit(back).query}"), back


def id_token_of(issuer, browser, name, client_id):
    """Sign in by ourselves, as a back end would, and return the provider's ID token."""
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    query = {
        "client_id": client_id,
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": "openid email profile",
        "code_challenge": challenge.rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    back = browser.visit(f"{issuer}/auth?{urlencode(query)}", name)
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(back).query)["code"][0],
        "redirect_uri": CALLBACK,
        "code_verifier": verifier,
        "client_id": client_id,
    }
    auth = ("trellis", "s3cret") if client_id == "trellis" else None
    answer = browser.http.post(f"{issuer}/token", data=form, auth=auth)
    assert answer.status_code == 200, answer.text
    return answer.json()["id_token"]


def test_the_browser_flow_in_its_three_deliveries(client, admin, sso, browser):
    answer, back = sign_in(client, browser, "nora")
    assert answer.status_code == 200, answer.json
    nora = ApiClient(client.http, answer.json["accessToken"])
    me = nora.get("/auth/me").json
    assert (me["email"], me["displayName"]) == ("nora@acme.test", "nora")
    assert nora.get("/permissions").json["roles"] == ["base"]
    again = client.get(f"/auth/oidc/callback?{urlsplit(back).query}")
    assert error(again) == (401, "invalid or already used state")

    # The provider knows the browser by now and asks nothing.
    answer, _ = sign_in(client, browser, "nora", redirect_uri=SPA, token_delivery="nonce")
    nonce = parse_qs(urlsplit(answer.headers["Location"]).query)["auth_nonce"][0]
    tokens = client.post("/auth/nonce-exchange", {"nonce": nonce}).json
    assert ApiClient(client.http, tokens["accessToken"]).get("/auth/me").json == me
    answer, _ = sign_in(client, browser, "nora", redirect_uri=SPA)
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    refreshed = client.post("/auth/refresh", {"refreshToken": query["refresh_token"][0]})
    assert refreshed.status_code == 200
    # Without a secret, and with keys of another kind, it is the same person only by address,
    # which is linked to the first provider.
    answer, _ = sign_in(client, browser, "nora", "public")
    assert error(answer) == (400, "email 'nora@acme.test' is already registered")


def test_a_public_client_and_elliptic_curves(client, admin, sso, browser):
    answer, _ = sign_in(client, browser, "otto", "public")
    assert answer.status_code == 200, answer.json
    otto = ApiClient(client.http, answer.json["accessToken"]).get("/auth/me").json
    assert otto["email"] == "otto@acme.test"
    token = id_token_of(sso, browser, "otto", "public")
    exchange = {"providerId": "public", "idToken": token}
    assert client.post("/auth/oidc/token-exchange", exchange).status_code == 200
    # For somebody else, or changed on the way: refused.
    head, body, signature = token.split(".")
    changed = f"{head}.{body}.{signature[::-1]}"
    for provider_id, wrong in (("trellis", token), ("public", changed)):
        exchange = {"providerId": provider_id, "idToken": wrong}
        answer = client.post("/auth/oidc/token-exchange", exchange)
        assert error(answer) == (401, "id_token was rejected")


def test_what_goes_wrong_at_the_provider(client, admin, sso, browser):
    answer, _ = sign_in(client, browser, None)
    assert error(answer) == (401, "the identity provider refused the sign-in: access_denied")
    answer, _ = sign_in(client, browser, None, redirect_uri=SPA)
    assert answer.headers["Location"] == f"{SPA}?error=access_denied"
    answer, _ = sign_in(client, browser, "unverified")
    assert error(answer) == (403, "email address is not verified by the identity provider")
    body = {"displayName": "x", "issuerUrl": sso, "clientId": "trellis", "clientSecret": "wrong"}
    admin.post("/auth/oidc/providers", {"id": "trellis", **body})
    answer, _ = sign_in(client, browser, "unverified")
    assert error(answer) == (401, "authorization code was refused")
