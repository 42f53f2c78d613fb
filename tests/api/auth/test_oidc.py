"""Single sign-on against a whole provider (contract part 10, section 6)."""

import base64
import hmac
import threading
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwk
from sqlalchemy import text

from app.auth.oidc import client as oidc_client
from app.auth.oidc.routes import provider_client
from app.bootstrap import first_boot
from config.settings import OIDCSettings
from tests.fakes.oidc import CLIENT_ID, CLIENT_SECRET, rsa_key, running_provider
from tests.support.api import PASSWORD, ApiClient, error

SPA = "http://127.0.0.1:5173/app?tab=1"


@pytest.fixture
def provider():
    with running_provider() as provider:
        yield provider


def save(admin, provider, **changes):
    body = {
        "id": "acme_sso",
        "displayName": "Acme SSO",
        "issuerUrl": provider.url,
        "clientId": CLIENT_ID,
        "clientSecret": CLIENT_SECRET,
        **changes,
    }
    return admin.post("/auth/oidc/providers", body)


@pytest.fixture
def sso(admin, provider):
    """A saved provider."""
    answer = save(admin, provider)
    assert (answer.status_code, answer.json) == (200, {"message": "provider 'acme_sso' saved"})
    return provider


def authorize(client, **query):
    return client.get("/auth/oidc/acme_sso/authorize", query_string=query)


def callback(client, url):
    return client.get(url.partition("/api/v1")[2])


def sign_in(client, provider, **query):
    """Play the whole browser flow; return the answer of the callback."""
    started = authorize(client, **query)
    assert started.status_code == 307, started.json
    return callback(client, provider.log_in(started.headers["Location"]))


def exchange(client, token, provider_id="acme_sso"):
    return client.post("/auth/oidc/token-exchange", {"providerId": provider_id, "idToken": token})


def query_of(url):
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def rows(platform, statement, **values):
    with platform.engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return result.all() if result.returns_rows else None


# Providers


def test_providers_are_listed_by_id_with_two_fields(client, admin, sso):
    save(admin, sso, id="a-first", displayName="A")
    save(admin, sso, id="off", enabled=False)
    listed = client.get("/auth/oidc/providers").json
    assert listed == [
        {"id": "a-first", "displayName": "A"},
        {"id": "acme_sso", "displayName": "Acme SSO"},
    ]
    assert client.get("/auth/mode").json["providers"] == listed
    assert error(client.get("/auth/oidc/off/authorize")) == (404, "provider 'off' not found")
    token = sso.sign()
    assert error(exchange(client, token, "off")) == (404, "provider 'off' not found")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "id is required"),
        ({"id": "a/b"}, "invalid provider id"),
        ({"id": "x" * 65}, "invalid provider id"),
        ({"id": "callback"}, "invalid provider id"),
        ({"id": "token-exchange"}, "invalid provider id"),
        ({"displayName": ""}, "displayName is required"),
        ({"issuerUrl": None}, "issuerUrl is required"),
        ({"clientId": None}, "clientId is required"),
        ({"clientId": 5}, "field 'clientId' must be a string"),
        ({"issuerUrl": "acme"}, "issuerUrl is not a valid URL"),
        ({"issuerUrl": "https://"}, "issuerUrl is not a valid URL"),
        ({"issuerUrl": "https://a:99999"}, "issuerUrl is not a valid URL"),
        ({"issuerUrl": "http://sso.acme.test"}, "issuerUrl must use https"),
        ({"issuerUrl": "ftp://localhost"}, "issuerUrl must use https"),
        ({"scopes": "openid"}, "field 'scopes' must be an array"),
        ({"enabled": "yes"}, "field 'enabled' must be a boolean"),
    ],
)
def test_bad_providers_are_refused(admin, provider, client, changes, message):
    assert error(save(admin, provider, **changes)) == (400, message)
    assert client.get("/auth/oidc/providers").json == []


@pytest.mark.parametrize(
    "misbehave",
    [
        {"raw_discovery": (500, b"{}", {})},
        {"raw_discovery": (200, b"<html>", {})},
        {"raw_discovery": (200, b"[]", {})},
        {"raw_discovery": (200, b"{}", {})},
        {"raw_discovery": (302, b"", {"Location": "/elsewhere"})},
        {"raw_discovery": (200, b"{" + b" " * 2_000_000 + b"}", {})},
    ],
)
def test_a_discovery_document_that_cannot_be_loaded(admin, provider, client, misbehave):
    for name, value in misbehave.items():
        setattr(provider, name, value)
    assert error(save(admin, provider)) == (400, "discovery document could not be loaded")
    assert client.get("/auth/oidc/providers").json == []
    assert "/elsewhere" not in provider.requests


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9", "https://127.0.0.1:9", "https://10.0.0.1", "https://169.254.169.254"],
)
def test_a_provider_that_cannot_be_reached(admin, provider, url):
    assert error(save(admin, provider, issuerUrl=url)) == (
        400,
        "discovery document could not be loaded",
    )


def test_the_issuer_must_match_exactly(admin, provider):
    provider.issuer = provider.url + "/"
    assert error(save(admin, provider)) == (400, "issuer does not match the discovery document")


def test_only_administrators_manage_providers(client, admin, provider):
    nora = client.sign_up("nora@acme.test")
    assert error(save(client, provider))[0] == 401
    assert error(save(nora, provider))[0] == 403
    assert error(nora.delete("/auth/oidc/providers/acme_sso"))[0] == 403


def test_the_secret_is_kept_encrypted_when_omitted_and_removed_when_empty(
    client, admin, sso, platform
):
    stored = rows(platform, "SELECT ciphertext FROM trellis.secrets WHERE scope = 'oidc:acme_sso'")
    assert CLIENT_SECRET.encode() not in bytes(stored[0].ciphertext)
    save(admin, sso, clientSecret=None)
    assert sign_in(client, sso).status_code == 200
    save(admin, sso, clientSecret="")
    assert error(sign_in(client, sso)) == (401, "authorization code was refused")
    sso.public_client = True
    assert sign_in(client, sso).status_code == 200
    assert rows(platform, "SELECT 1 FROM trellis.secrets WHERE scope = 'oidc:acme_sso'") == []


def test_saving_replaces_everything_else(client, admin, sso, platform):
    save(admin, sso, scopes=["email"], autoRegister=False, defaultRole="x", roleClaim="role")
    save(admin, sso)
    row = rows(platform, "SELECT * FROM trellis.oidc_providers")[0]
    assert row.scopes == ["openid", "email", "profile"]
    assert (row.auto_register, row.default_role, row.role_claim) == (True, "base", None)


def test_deleting_a_provider_with_users_needs_force(client, admin, sso, platform):
    sign_in(client, sso)
    authorize(client)
    path = "/auth/oidc/providers/acme_sso"
    text_ = "1 user(s) sign in through this provider; repeat with ?force=true to delete it anyway"
    assert error(admin.delete(path)) == (400, text_)
    assert error(admin.delete(f"{path}?force=1")) == (400, text_)
    answer = admin.delete(f"{path}?force=true")
    assert (answer.status_code, answer.json) == (200, {"message": "provider 'acme_sso' deleted"})
    assert error(admin.delete(path)) == (404, "provider 'acme_sso' not found")
    assert rows(platform, "SELECT 1 FROM trellis.secrets") == []
    assert rows(platform, "SELECT 1 FROM trellis.oidc_state") == []
    before = len(admin.get("/users").json)
    save(admin, sso)
    assert sign_in(client, sso).status_code == 200  # the link works again
    assert len(admin.get("/users").json) == before


# The browser flow


def test_authorize_sends_everything_the_provider_needs(client, sso):
    started = authorize(client)
    assert started.status_code == 307
    assert started.headers["Referrer-Policy"] == "no-referrer"
    query = query_of(started.headers["Location"])
    assert query["client_id"] == CLIENT_ID
    assert query["scope"] == "openid email profile"
    assert query["redirect_uri"] == "http://localhost:9100/api/v1/auth/oidc/callback"
    assert query["code_challenge_method"] == "S256"
    assert min(len(query["state"]), len(query["nonce"]), len(query["code_challenge"])) >= 22
    assert query["state"] != query_of(authorize(client).headers["Location"])["state"]


def test_openid_is_sent_once_whatever_the_scopes_are(client, admin, sso):
    save(admin, sso, scopes=["email", "openid", "email"])
    assert query_of(authorize(client).headers["Location"])["scope"] == "openid email"


def test_without_a_redirect_the_tokens_are_in_the_body(client, sso):
    answer = sign_in(client, sso)
    assert answer.status_code == 200
    assert set(answer.json) == {"accessToken", "refreshToken", "expiresIn"}
    assert answer.headers["Cache-Control"] == "no-store"
    nora = ApiClient(client.http, answer.json["accessToken"])
    assert nora.get("/auth/me").json["email"] == "nora@acme.test"
    assert nora.get("/auth/me").json["displayName"] == "nora"
    refreshed = client.post("/auth/refresh", {"refreshToken": answer.json["refreshToken"]})
    assert refreshed.status_code == 200


def test_compatibility_delivery_puts_the_tokens_into_query_and_fragment(client, sso):
    answer = sign_in(client, sso, redirect_uri=SPA, token_delivery="whatever")
    assert answer.status_code == 307
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    location = urlsplit(answer.headers["Location"])
    assert answer.headers["Location"].startswith("http://127.0.0.1:5173/app?tab=1&access_token=")
    query = {k: v[0] for k, v in parse_qs(location.query).items()}
    assert set(query) == {"tab", "access_token", "refresh_token", "expires_in"}
    fragment = {k: v[0] for k, v in parse_qs(location.fragment).items()}
    assert fragment == {k: v for k, v in query.items() if k != "tab"}
    assert ApiClient(client.http, query["access_token"]).get("/auth/me").status_code == 200


def test_nonce_delivery_works_once(client, sso, platform):
    answer = sign_in(client, sso, redirect_uri=SPA, token_delivery="nonce")
    query = query_of(answer.headers["Location"])
    assert set(query) == {"tab", "auth_nonce"}
    nonce = query["auth_nonce"]
    assert len(nonce) == 43
    stored = rows(platform, "SELECT nonce_hash FROM trellis.auth_nonces")[0].nonce_hash
    assert nonce.encode() not in bytes(stored)
    assert len(bytes(stored)) == 32
    swapped = client.post("/auth/nonce-exchange", {"nonce": nonce})
    assert swapped.status_code == 200
    assert set(swapped.json) == {"accessToken", "refreshToken", "expiresIn"}
    assert swapped.headers["Cache-Control"] == "no-store"
    assert error(client.post("/auth/nonce-exchange", {"nonce": nonce})) == (
        401,
        "invalid or expired nonce",
    )
    assert error(client.post("/auth/nonce-exchange", {})) == (400, "field 'nonce' is required")


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE trellis.auth_nonces SET created_at = now() - interval '31 seconds'",
        "UPDATE trellis.sessions SET expires_at = now()",
        "DELETE FROM trellis.sessions",
        "UPDATE trellis.users SET disabled_at = now()",
    ],
)
def test_a_nonce_dies_with_its_time_its_session_and_its_user(client, sso, platform, spoil):
    answer = sign_in(client, sso, redirect_uri=SPA, token_delivery="nonce")
    rows(platform, spoil)
    nonce = query_of(answer.headers["Location"])["auth_nonce"]
    assert error(client.post("/auth/nonce-exchange", {"nonce": nonce})) == (
        401,
        "invalid or expired nonce",
    )


def test_parallel_exchanges_of_one_nonce_succeed_once(client, sso):
    answer = sign_in(client, sso, redirect_uri=SPA, token_delivery="nonce")
    body = {"nonce": query_of(answer.headers["Location"])["auth_nonce"]}
    statuses = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(client.post("/auth/nonce-exchange", body).status_code)
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 401, 401, 401, 401]


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost:9100",
        "http://localhost:9100/deep/path?x=1#frag",
        "http://127.0.0.1:4711/callback?cli=abc",
        "http://127.8.9.1/x",
        "http://[::1]:80/",
        "https://LOCALHOST/x",
    ],
)
def test_tokens_may_go_to_this_server_and_to_loopback(client, sso, uri):
    assert authorize(client, redirect_uri=uri).status_code == 307


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.test/",
        "http://evil.test:9100/",
        "http://localhost.evil.test/",
        "http://127.0.0.1.evil.test/",
        "http://0x7f000001/",
        "ftp://localhost/",
        "http://0.0.0.0/",
    ],
)
def test_tokens_may_not_go_anywhere_else(client, sso, uri):
    assert error(authorize(client, redirect_uri=uri)) == (
        400,
        "redirect_uri must be on this server or on a loopback address",
    )


@pytest.mark.parametrize(
    "uri",
    [
        "/relative",
        "localhost",
        "http://",
        "http://[::1",
        "http://localhost:port/",
        "http://evil.test\\@localhost/",
        "http://user@localhost/",
        "http://localhost/\r\nX-Evil: 1",
        "http://local host/",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_is_refused(client, sso, uri):
    assert error(authorize(client, redirect_uri=uri)) == (400, "invalid redirect_uri")


def test_unknown_providers_are_404(client, sso):
    answer = client.get("/auth/oidc/nope/authorize")
    assert error(answer) == (404, "provider 'nope' not found")


def test_a_provider_that_went_away_is_500(client, admin, sso):
    provider_client(()).forget(sso.url)
    sso.raw_discovery = (503, b"", {})
    assert error(authorize(client)) == (500, "identity provider not reachable")
    assert error(exchange(client, sso.sign())) == (500, "identity provider not reachable")


def test_a_state_works_once(client, sso):
    url = sso.log_in(authorize(client).headers["Location"])
    assert callback(client, url).status_code == 200
    assert error(callback(client, url)) == (401, "invalid or already used state")
    assert error(callback(client, url.replace("state=", "state=x"))) == (
        401,
        "invalid or already used state",
    )


def test_a_state_lives_ten_minutes(client, sso, platform):
    url = sso.log_in(authorize(client).headers["Location"])
    rows(platform, "UPDATE trellis.oidc_state SET created_at = now() - interval '10 min 1 s'")
    assert error(callback(client, url)) == (401, "sign-in took too long")
    assert rows(platform, "SELECT 1 FROM trellis.oidc_state") == []


def test_a_callback_needs_state_and_code(client, sso):
    assert error(client.get("/auth/oidc/callback?code=x")) == (400, "field 'state' is required")
    assert error(client.get("/auth/oidc/callback?state=x")) == (400, "field 'code' is required")


def test_a_state_is_used_up_even_when_the_rest_fails(client, sso):
    url = sso.log_in(authorize(client).headers["Location"])
    sso.token_status = 500
    assert error(callback(client, url)) == (401, "authorization code was refused")
    assert error(callback(client, url)) == (401, "invalid or already used state")


def test_a_provider_disabled_meanwhile_is_404(client, admin, sso):
    url = sso.log_in(authorize(client).headers["Location"])
    save(admin, sso, enabled=False)
    assert error(callback(client, url)) == (404, "provider 'acme_sso' not found")


def test_a_wrong_pkce_verifier_is_refused(client, sso, platform):
    url = sso.log_in(authorize(client).headers["Location"])
    rows(platform, "UPDATE trellis.oidc_state SET pkce_verifier = repeat('x', 43)")
    assert error(callback(client, url)) == (401, "authorization code was refused")


def test_a_wrong_nonce_is_refused(client, sso, platform):
    url = sso.log_in(authorize(client).headers["Location"])
    rows(platform, "UPDATE trellis.oidc_state SET nonce = 'other'")
    assert error(callback(client, url)) == (401, "id_token was rejected")
    sso.claims["nonce"] = None
    assert error(sign_in(client, sso)) == (401, "id_token was rejected")


@pytest.mark.parametrize("answer", [{}, {"id_token": None}, {"id_token": 5}, {"access_token": "x"}])
def test_an_answer_without_id_token(client, sso, answer):
    sso.token_answer = answer or {"token_type": "Bearer"}
    assert error(sign_in(client, sso)) == (401, "no id_token returned")


def test_a_refusal_of_the_provider_reaches_the_app(client, sso):
    state = query_of(authorize(client, redirect_uri=SPA).headers["Location"])["state"]
    answer = client.get(f"/auth/oidc/callback?error=access_denied%26x&state={state}")
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"{SPA}&error=access_denied%26x"
    assert error(client.get(f"/auth/oidc/callback?error=access_denied&state={state}")) == (
        401,
        "invalid or already used state",
    )
    state = query_of(authorize(client).headers["Location"])["state"]
    assert error(client.get(f"/auth/oidc/callback?error=access_denied&state={state}")) == (
        401,
        "the identity provider refused the sign-in: access_denied",
    )


# ID tokens


def at_this_moment(claims):
    """Turn seconds from now into times."""
    moments = {"exp", "iat", "nbf"}
    return {
        name: int(time.time()) + value if name in moments and isinstance(value, int) else value
        for name, value in claims.items()
    }


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"},
        {"iss": None},
        {"aud": "someone-else"},
        {"aud": None},
        {"aud": []},
        {"aud": [CLIENT_ID, "other"]},
        {"aud": [CLIENT_ID, "other"], "azp": "other"},
        {"exp": -61},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": 90},
        {"iat": None},
        {"nbf": 90},
        {"sub": ""},
        {"sub": None},
        {"sub": 5},
        {"sub": "a\0b"},
    ],
)
def test_wrong_claims_are_rejected(client, sso, claims):
    token = sso.sign(**at_this_moment(claims))
    assert error(exchange(client, token)) == (401, "id_token was rejected")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID},
        {"exp": -30},
        {"iat": 30},
        {"nbf": 30},
        {"nonce": "not compared here"},
    ],
)
def test_good_claims_are_accepted_with_leeway(client, sso, claims):
    assert exchange(client, sso.sign(**at_this_moment(claims))).status_code == 200


def test_a_foreign_key_is_rejected(client, sso):
    assert error(exchange(client, sso.sign(key=rsa_key("k1")))) == (401, "id_token was rejected")


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_symmetric_and_missing_signatures_are_rejected(client, sso):
    header, payload, signature = sso.sign().split(".")
    for secret in (sso.key.as_pem(private=False), CLIENT_SECRET.encode()):
        signed = b64(b'{"alg":"HS256","kid":"k1"}') + "." + payload
        mac = b64(hmac.digest(secret, signed.encode(), "sha256"))
        assert error(exchange(client, f"{signed}.{mac}")) == (401, "id_token was rejected")
    none = b64(b'{"alg":"none","kid":"k1"}')
    for token in (f"{none}.{payload}.", f"{none}.{payload}.{signature}", f"{header}.{payload}."):
        assert error(exchange(client, token)) == (401, "id_token was rejected")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "....", "\N{SNOWMAN}", "e30.e30.e30"])
def test_garbage_is_rejected(client, sso, token):
    assert error(exchange(client, token)) == (401, "id_token was rejected")


def test_keys_in_the_header_are_ignored(client, sso):
    foreign = rsa_key("k1")
    header = {"jwk": foreign.as_dict(private=False), "jku": "http://127.0.0.1:1/keys"}
    token = sso.sign(header=header, key=foreign)
    assert error(exchange(client, token)) == (401, "id_token was rejected")


def test_unknown_header_names_do_no_harm(client, sso):
    assert exchange(client, sso.sign(header={"x-acme": 1})).status_code == 200


def test_an_algorithm_that_is_not_advertised_is_rejected(client, sso):
    token = sso.sign(header={"alg": "RS512"})
    assert error(exchange(client, token)) == (401, "id_token was rejected")


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("PS256", lambda: rsa_key("k2")),
        ("ES256", lambda: jwk.ECKey.generate_key("P-256", {"kid": "k2"}, auto_kid=False)),
        ("EdDSA", lambda: jwk.OKPKey.generate_key("Ed25519", {"kid": "k2"}, auto_kid=False)),
    ],
)
def test_other_algorithms_work_when_advertised(client, admin, provider, algorithm, make):
    provider.metadata["id_token_signing_alg_values_supported"] = [algorithm]
    provider.key = make()
    save(admin, provider)
    assert exchange(client, provider.sign(header={"alg": algorithm})).status_code == 200


def test_a_new_key_is_accepted_without_restart(client, sso, monkeypatch):
    assert exchange(client, sso.sign()).status_code == 200
    sso.key = rsa_key("k2")
    # Too soon: an unknown key id may not make us hammer the provider.
    assert error(exchange(client, sso.sign())) == (401, "id_token was rejected")
    fetched = sso.requests.count("/keys")
    monkeypatch.setattr(oidc_client, "KEYS_REFETCH_S", 0)
    assert exchange(client, sso.sign()).status_code == 200
    assert sso.requests.count("/keys") == fetched + 1
    assert exchange(client, sso.sign()).status_code == 200
    assert sso.requests.count("/keys") == fetched + 1


def test_a_key_that_was_withdrawn_ends_within_the_hour(client, sso):
    now = [time.time()]
    from app.core.outgoing import Outgoing

    client_ = oidc_client.ProviderClient(Outgoing(), now=lambda: now[0])
    registration = oidc_client.Registration("acme_sso", sso.url, CLIENT_ID)
    token = sso.sign(exp=int(now[0]) + 10_000)
    client_.verify(registration, token)
    sso.published = [rsa_key("k9")]
    client_.verify(registration, token)
    now[0] += oidc_client.CACHE_S
    with pytest.raises(Exception, match="rejected"):
        client_.verify(registration, token)


def test_a_token_without_key_id_needs_a_single_fitting_key(client, sso):
    token = sso.sign(header={"kid": None})
    assert exchange(client, token).status_code == 200
    sso.published = [sso.key, rsa_key("k2")]
    provider_client(()).forget(sso.url)
    assert error(exchange(client, token)) == (401, "id_token was rejected")


def test_the_provider_of_the_settings_is_created_once(client, provider, platform):
    oidc = OIDCSettings(provider.url, CLIENT_ID, CLIENT_SECRET)
    booted = replace(platform, settings=replace(platform.settings, oidc=oidc))
    first_boot(booted)
    assert client.get("/auth/oidc/providers").json == [
        {"id": "default", "displayName": "Single sign-on"}
    ]
    answer = exchange(client, provider.sign(), "default")
    assert permissions_of(client, answer)["roles"] == ["admin"]  # the first human
    answer = callback(
        client, provider.log_in(client.get("/auth/oidc/default/authorize").headers["Location"])
    )
    assert answer.status_code == 200, answer.json  # so the secret is in the vault
    rows(platform, "UPDATE trellis.oidc_providers SET display_name = 'Ours', enabled = false")
    first_boot(booted)
    kept = rows(platform, "SELECT display_name, enabled FROM trellis.oidc_providers")
    assert kept == [("Ours", False)]


# From claims to users


def permissions_of(client, answer):
    return ApiClient(client.http, answer.json["accessToken"]).get("/permissions").json


@pytest.mark.parametrize("email", [None, "", "nonsense", 5])
def test_a_token_without_address(client, sso, email):
    assert error(exchange(client, sso.sign(email=email))) == (401, "id_token has no email")


def test_new_users_get_the_default_role(client, admin, sso):
    assert permissions_of(client, exchange(client, sso.sign()))["roles"] == ["base"]
    save(admin, sso, defaultRole="staff")
    assert permissions_of(client, exchange(client, sso.sign(sub="2", email="2@x.test")))[
        "roles"
    ] == ["base"]
    admin.post("/roles", {"name": "staff", "permissions": ["app:x:invoke"]})
    assert permissions_of(client, exchange(client, sso.sign(sub="3", email="3@x.test"))) == {
        "roles": ["staff"],
        "permissions": ["app:x:invoke"],
    }


@pytest.mark.parametrize(
    ("claim", "role"),
    [
        ("staff", "staff"),
        ("Staff", "base"),
        ("unknown", "base"),
        (["staff"], "base"),
        (7, "base"),
        (None, "base"),
        ("a\0b", "base"),
    ],
)
def test_the_role_claim_is_a_literal_key_with_a_known_role(client, admin, sso, claim, role):
    admin.post("/roles", {"name": "staff"})
    save(admin, sso, roleClaim="org.role")
    token = sso.sign(**{"org.role": claim, "org": {"role": "staff"}})
    assert permissions_of(client, exchange(client, token))["roles"] == [role]


def test_a_deleted_base_role_comes_back_for_a_new_user(client, admin, sso):
    admin.delete("/roles/base")
    assert permissions_of(client, exchange(client, sso.sign()))["roles"] == ["base"]


def test_the_first_human_of_an_installation_is_administrator(client, admin, sso, platform):
    rows(platform, "DELETE FROM trellis.users WHERE kind = 'human'")
    answer = exchange(client, sso.sign())
    assert permissions_of(client, answer) == {"roles": ["admin"], "permissions": ["*"]}


def test_unknown_users_are_refused_without_auto_register(client, admin, sso):
    save(admin, sso, autoRegister=False)
    assert error(exchange(client, sso.sign())) == (403, "user is not provisioned")
    assert error(sign_in(client, sso)) == (403, "user is not provisioned")
    assert len(admin.get("/users").json) == 1


def test_linking_by_address_keeps_roles_and_password(client, admin, sso):
    nora = client.sign_up("nora@acme.test")
    admin.post("/roles", {"name": "staff"})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "staff"})
    answer = exchange(client, sso.sign(email="Nora@ACME.test"))
    assert permissions_of(client, answer)["roles"] == ["staff"]
    linked = ApiClient(client.http, answer.json["accessToken"])
    assert linked.get("/auth/me").json["id"] == nora.user_id
    client.log_in("nora@acme.test", PASSWORD)
    assert error(exchange(client, sso.sign(sub="other"))) == (
        400,
        "email 'nora@acme.test' is already registered",
    )


@pytest.mark.parametrize("value", [False, "false"])
def test_an_unverified_address_never_links_and_never_creates(client, admin, sso, value):
    refusal = (403, "email address is not verified by the identity provider")
    assert error(exchange(client, sso.sign(email_verified=value))) == refusal
    client.sign_up("nora@acme.test")
    assert error(exchange(client, sso.sign(email_verified=value))) == refusal


def test_reserved_addresses_and_those_of_agents_are_refused(client, admin, sso, platform):
    rows(
        platform,
        "INSERT INTO trellis.users (id, email, kind, is_system)"
        " VALUES (gen_random_uuid(), 'robot@acme.test', 'agent', true)",
    )
    assert error(exchange(client, sso.sign(email="robot@acme.test"))) == (
        400,
        "email 'robot@acme.test' is already registered",
    )
    assert error(exchange(client, sso.sign(email="agent+crm@localhost"))) == (
        400,
        "this email is reserved",
    )


def test_a_second_sign_in_takes_over_the_profile_and_leaves_the_roles(client, admin, sso):
    admin.post("/roles", {"name": "staff"})
    save(admin, sso, roleClaim="role")
    first = ApiClient(client.http, exchange(client, sso.sign()).json["accessToken"]).get("/auth/me")
    token = sso.sign(
        email="Lind@acme.test", preferred_username=None, name="Nora Lind", role="staff"
    )
    answer = exchange(client, token)
    me = ApiClient(client.http, answer.json["accessToken"]).get("/auth/me").json
    assert me == {**first.json, "email": "lind@acme.test", "displayName": "Nora Lind"}
    assert permissions_of(client, answer)["roles"] == ["base"]
    # Neither an unverified address nor a missing name changes anything.
    token = sso.sign(email="evil@acme.test", email_verified=False, preferred_username=None)
    answer = exchange(client, token)
    assert ApiClient(client.http, answer.json["accessToken"]).get("/auth/me").json == me
    client.sign_up("taken@acme.test")
    assert error(exchange(client, sso.sign(email="taken@acme.test"))) == (
        400,
        "email 'taken@acme.test' is already registered",
    )


def test_a_disabled_user_is_refused(client, admin, sso, platform):
    exchange(client, sso.sign())
    rows(platform, "UPDATE trellis.users SET disabled_at = now() WHERE oidc_sub IS NOT NULL")
    assert error(exchange(client, sso.sign())) == (401, "account not available")
    assert error(sign_in(client, sso)) == (401, "account not available")
    client.sign_up("otto@acme.test")
    rows(platform, "UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'otto%'")
    assert error(exchange(client, sso.sign(sub="o", email="otto@acme.test"))) == (
        401,
        "account not available",
    )


def test_parallel_first_sign_ins_make_one_user(client, admin, sso):
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(exchange(client, sso.sign()).status_code))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 5
    assert len(admin.get("/users").json) == 2


# Token exchange


def test_token_exchange_begins_no_session(client, admin, sso, platform):
    before = rows(platform, "SELECT count(*) FROM trellis.sessions")
    answer = exchange(client, sso.sign())
    assert answer.status_code == 200
    assert set(answer.json) == {"accessToken", "expiresIn"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert exchange(client, sso.sign()).status_code == 200
    assert rows(platform, "SELECT count(*) FROM trellis.sessions") == before


def test_token_exchange_checks_its_fields(client, sso):
    assert error(client.post("/auth/oidc/token-exchange", {"idToken": "x"})) == (
        400,
        "field 'providerId' is required",
    )
    assert error(exchange(client, sso.sign(), "nope")) == (404, "provider 'nope' not found")
