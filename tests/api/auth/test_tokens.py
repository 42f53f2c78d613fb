"""Attacks on tokens: every one of them is 401 (contract part 10, section 4)."""

import base64
import hashlib
import hmac
import json
import time
from uuid import uuid4

import jwt
import pytest

from app.auth import tokens
from tests.support.api import PASSWORD, error


def b64(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def me(client, token):
    return client.get("/auth/me", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def secret(settings):
    return settings.auth.jwt_secret


@pytest.fixture
def claims(admin):
    now = int(time.time())
    return {"sub": admin.user_id, "email": "admin@example.com", "iat": now, "exp": now + 900}


def signed(claims, secret, *, header=None, digest="sha256"):
    head = {"alg": "HS256", "typ": "JWT", **(header or {})}
    message = f"{b64(head)}.{b64(claims)}"
    return f"{message}.{b64(hmac.digest(secret.encode(), message.encode(), digest))}"


def test_our_own_tokens_have_the_shape_of_the_contract(client, admin, settings):
    login = client.post("/auth/login", {"email": "admin@example.com", "password": PASSWORD}).json
    access, refresh = login["accessToken"], login["refreshToken"]
    for token in (access, refresh):
        assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    decoded = jwt.decode(access, settings.auth.jwt_secret, algorithms=["HS256"])
    assert set(decoded) == {"sub", "email", "iat", "exp"}
    assert decoded["exp"] - decoded["iat"] == 900
    decoded = jwt.decode(refresh, settings.auth.jwt_secret, algorithms=["HS256"])
    assert set(decoded) == {"sub", "session_id", "iat", "exp"}
    assert decoded["exp"] - decoded["iat"] == 2_592_000


def test_a_token_signed_by_hand_works(client, claims, secret):
    assert me(client, signed(claims, secret)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"email": ""},
        {"email": None},
        {"email": 5},
        {"email": ["admin@example.com"]},
        {"sub": None},
        {"sub": "admin"},
        {"sub": 1},
        {"sub": str(uuid4())},
        {"sub": "00000000-0000-0000-0000-000000000001"},
        {"app": 5},
        {"session_id": str(uuid4()), "email": None},
    ],
)
def test_wrong_claims(client, claims, secret, changes):
    wrong = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    assert error(me(client, signed(wrong, secret))) == (401, "invalid or expired token")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None])
def test_no_algorithm(client, claims, name):
    for tail in ("", b64(b"x" * 32)):
        token = f"{b64({'alg': name, 'typ': 'JWT'})}.{b64(claims)}.{tail}"
        assert error(me(client, token)) == (401, "invalid or expired token")


@pytest.mark.parametrize("name", ["HS384", "HS512"])
def test_another_algorithm_with_the_right_key(client, claims, secret, name):
    token = jwt.encode(claims, secret.ljust(64, "x"), algorithm=name)
    assert error(me(client, token)) == (401, "invalid or expired token")
    digest = {"HS384": "sha384", "HS512": "sha512"}[name]
    token = signed(claims, secret, header={"alg": name}, digest=digest)
    assert error(me(client, token)) == (401, "invalid or expired token")


def test_asymmetric_algorithms(client, claims):
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode(claims, key, algorithm="RS256")
    assert error(me(client, token)) == (401, "invalid or expired token")


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "/dev/null"},
        {"kid": "' OR 1=1"},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"jwk": {"kty": "oct", "k": b64(b"attacker")}},
    ],
)
def test_keys_named_in_the_header_are_ignored(client, claims, header):
    for key in ("attacker", "", "\0" * 32):
        token = signed(claims, key, header=header)
        assert error(me(client, token)) == (401, "invalid or expired token")


def test_a_damaged_signature(client, claims, secret):
    token = signed(claims, secret)
    head, body, signature = token.split(".")
    other = b64({**claims, "sub": str(uuid4())})
    damaged = [
        token[:-4],
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{signature[::-1]}",
        f"{token}.x",
        f"{head}.{body}.{signature}{signature}",
        "." * 2,
        "",
        "x" * 10_000,
    ]
    for text in damaged:
        assert error(me(client, text))[0] == 401, text
    assert me(client, token).status_code == 200


def test_a_token_of_another_installation(client, claims):
    token = signed(claims, hashlib.sha256(b"other").hexdigest())
    assert error(me(client, token)) == (401, "invalid or expired token")


def test_kinds_of_tokens_never_mix(client, admin):
    login = client.post("/auth/login", {"email": "admin@example.com", "password": PASSWORD}).json
    assert error(me(client, login["refreshToken"])) == (401, "invalid or expired token")
    for path in ("/auth/refresh", "/auth/logout"):
        answer = client.post(path, {"refreshToken": login["accessToken"]})
        assert error(answer) == (401, "not a refresh token")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": 1}, "invalid refresh token"),
        ({"exp": None}, "invalid refresh token"),
        ({"session_id": "x"}, "invalid refresh token"),
        ({"session_id": 5}, "invalid refresh token"),
        ({"sub": None}, "invalid refresh token"),
        ({"session_id": None}, "not a refresh token"),
        ({"session_id": str(uuid4())}, "session ended"),
        ({"sub": str(uuid4())}, "account not available"),
    ],
)
def test_wrong_refresh_tokens(client, claims, secret, changes, text):
    base = {**claims, "session_id": str(uuid4())}
    del base["email"]
    wrong = {name: value for name, value in {**base, **changes}.items() if value is not None}
    answer = client.post("/auth/refresh", {"refreshToken": signed(wrong, secret)})
    assert error(answer) == (401, text)


def test_a_session_refreshes_its_own_user_only(client, admin, settings):
    login = {"email": "nora@acme.test", "password": PASSWORD}
    nora = client.sign_up("nora@acme.test")
    session_id = tokens.read_refresh_token(
        settings.auth, client.post("/auth/login", login).json["refreshToken"]
    ).session_id
    forged = tokens.mint_refresh_token(settings.auth, admin.user_id, session_id)
    assert error(client.post("/auth/refresh", {"refreshToken": forged})) == (401, "session ended")
    own = tokens.mint_refresh_token(settings.auth, nora.user_id, session_id)
    assert client.post("/auth/refresh", {"refreshToken": own}).status_code == 200


def test_a_token_dies_with_its_user_and_comes_back_to_life_with_nobody(client, admin):
    nora = client.sign_up("nora@acme.test")
    admin.delete(f"/users/{nora.user_id}")
    client.sign_up("nora@acme.test")
    assert error(nora.get("/auth/me")) == (401, "invalid or expired token")


def test_a_caller_token_is_limited_to_its_app(client, admin, settings):
    token = tokens.mint_access_token(settings.auth, admin.user_id, "admin@example.com", "crm")
    assert me(client, token).status_code == 200
    for path in ("/users", "/roles", "/permissions"):
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert error(answer) == (403, "token is limited to app 'crm'")
