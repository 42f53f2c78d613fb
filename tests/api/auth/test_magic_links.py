"""Magic links (contract part 10, section 10.1)."""

import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from app.auth.messages import PruneSignIns
from tasks import auth as auth_tasks
from tests.support.api import ApiClient, error

REFUSED = (401, "link is invalid, expired or already used")
GENERATE = "/auth/magic-link/generate"
CONSUME = "/auth/magic-link/consume"
SPA = "https://elsewhere.test/in?next=%2Fdeals#top"


def rows(platform, statement, **values):
    with platform.engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else None


def make(who, email="nora@acme.test", **body):
    answer = who.post(GENERATE, {"email": email, **body})
    assert answer.status_code == 201, answer.json
    return answer.json["magicLinkUrl"].partition("?token=")[2]


def use(client, token):
    return client.post(CONSUME, {"token": token})


def signed_in(client, answer):
    assert answer.status_code == 200, answer.json
    return ApiClient(client.http, answer.json["accessToken"], answer.json["user"]["id"])


@pytest.fixture
def inviter(client, admin):
    """Ivy, who holds two roles (one of them inherited) and may invite."""
    ivy = client.sign_up("ivy@acme.test")
    admin.post("/roles", {"name": "staff", "permissions": ["app:crm:invoke"]})
    admin.post("/roles", {"name": "lead", "inherits": ["staff"], "permissions": ["auth.invite"]})
    admin.post("/roles", {"name": "other"})
    admin.post("/roles/assign", {"userId": ivy.user_id, "role": "lead"})
    return ivy


def test_a_link_signs_a_new_person_in_once_and_confers_roles(client, admin, inviter, platform):
    answer = admin.post(GENERATE, {"email": " Nora@ACME.test", "roles": ["lead", "base", "base"]})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json) == {"magicLinkUrl", "expiresAt"}
    base, _, token = answer.json["magicLinkUrl"].partition("?token=")
    assert base == "http://localhost:9100/api/v1/auth/magic-link/consume"
    assert len(token) == 43
    assert answer.json["expiresAt"].endswith("Z")
    stored = rows(platform, "SELECT *, expires_at - now() AS left FROM trellis.magic_link_tokens")
    assert 890 < stored[0].left.total_seconds() <= 900
    assert token not in repr(stored)

    used = use(client, token)
    nora = signed_in(client, used)
    assert set(used.json) == {"accessToken", "refreshToken", "expiresIn", "user", "redirectUri"}
    assert (used.json["expiresIn"], used.json["redirectUri"]) == (900, None)
    assert used.headers["Cache-Control"] == "no-store"
    assert nora.get("/auth/me").json == used.json["user"]
    assert nora.get("/permissions").json["roles"] == ["base", "lead", "staff"]
    refresh = {"refreshToken": used.json["refreshToken"]}
    assert client.post("/auth/refresh", refresh).status_code == 200
    login = {"email": "nora@acme.test", "password": "Str0ngPass!x"}
    assert error(client.post("/auth/login", login))[0] == 401  # born without a password
    for bad in (token, token[:-1], "x", "\N{SNOWMAN}"):
        assert error(use(client, bad)) == REFUSED
    assert error(client.get(f"{CONSUME}?token={token}")) == REFUSED
    for nothing in (client.post(CONSUME, {}), use(client, ""), client.get(CONSUME)):
        assert error(nothing) == (400, "field 'token' is required")

    # The next link finds her, keeps what she has and adds to it.
    again = signed_in(client, use(client, make(admin, roles=["other", "lead"])))
    assert again.user_id == nora.user_id
    assert again.get("/permissions").json["roles"] == ["base", "lead", "other", "staff"]
    events = [entry["event"] for entry in admin.get("/audit?source=security").json]
    assert {"magic_link_created", "user_provisioned", "login_succeeded", "login_failed"} <= set(
        events
    )
    assert token not in repr(admin.get("/audit?source=security").json)


def test_in_the_browser_the_tokens_go_where_the_link_says(client, admin, platform):
    shown = client.get(f"{CONSUME}?token={make(admin)}")
    assert signed_in(client, shown).get("/auth/me").json["email"] == "nora@acme.test"

    token = make(admin, redirectUri=SPA, tokenDelivery="nonce")
    # A program that previews the link does not use it up.
    assert client.http.head(f"/api/v1{CONSUME}?token={token}").status_code == 405
    answer = client.get(f"{CONSUME}?token={token}")
    assert answer.status_code == 307
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    target = urlsplit(answer.headers["Location"])
    query = parse_qs(target.query)
    assert (target.netloc, target.fragment, query["next"]) == (
        "elsewhere.test",
        "top",
        ["/deals"],
    )
    exchange = {"nonce": query["auth_nonce"][0]}
    assert set(client.post("/auth/nonce-exchange", exchange).json) == {
        "accessToken",
        "refreshToken",
        "expiresIn",
    }

    for delivery in ("query", "anything"):
        token = make(admin, redirectUri=SPA, tokenDelivery=delivery)
        target = urlsplit(client.get(f"{CONSUME}?token={token}").headers["Location"])
        query, fragment = parse_qs(target.query), parse_qs(target.fragment)
        assert query.pop("next") == ["/deals"]
        assert query == fragment
        assert set(query) == {"access_token", "refresh_token", "expires_in"}
        assert client.post("/auth/refresh", {"refreshToken": query["refresh_token"][0]}).json

    token = make(admin, redirectUri=SPA, tokenDelivery="nonce")
    assert use(client, token).json["redirectUri"] == SPA  # asked for by a program: never sent on
    assert rows(platform, "SELECT count(*) FROM trellis.magic_link_tokens") == [(5,)]


def test_what_may_not_be_made(client, admin, inviter):
    many = [f"r{n}" for n in range(33)]
    cases = [
        ({}, "a valid email is required"),
        ({"email": 5}, "a valid email is required"),
        ({"email": "nobody"}, "a valid email is required"),
        ({"email": "sa+bot@localhost"}, "this email is reserved"),
        ({"roles": many}, "field 'roles' must have at most 32 elements"),
        ({"roles": ["nope"]}, "role 'nope' does not exist"),
        ({"roles": [""]}, "role names must not be empty"),
        ({"roles": "base"}, "field 'roles' must be an array"),
        ({"tokenDelivery": 5}, "field 'tokenDelivery' must be a string"),
        *(
            ({"expiresInSeconds": wrong}, "field 'expiresInSeconds' must be an integer")
            for wrong in ("900", True, 1.5)
        ),
        *(
            ({"redirectUri": url}, "redirectUri must be an http or https URL without user info")
            for url in (
                *("", "nowhere", "/in", "//x.test", "javascript:alert(1)", "ftp://x.test"),
                *("https://me@x.test", "https://me:pw@x.test", "https://@x.test", "https://"),
                *("https://x.test:port/", "https://x.test/\\@y.test", "https://x.test/a b"),
            )
        ),
    ]
    for changes, message in cases:
        body = {"email": "nora@acme.test", **changes} if changes else {}
        assert error(admin.post(GENERATE, body)) == (400, message), changes
    nobody = client.sign_up("nobody@acme.test")
    for who in (nobody, signed_in(client, use(client, make(admin, roles=["staff"])))):
        assert error(who.post(GENERATE, {})) == (403, "missing permission: auth.invite")
    # Holders of the key confer what they hold themselves, inherited roles included.
    make(inviter, roles=["lead", "staff"])
    for role in ("other", "base", "admin"):
        body = {"email": "nora@acme.test", "roles": ["lead", role]}
        assert error(inviter.post(GENERATE, body)) == (
            403,
            f"cannot confer role '{role}' that you do not hold",
        )


def test_lives_are_kept_within_bounds(client, admin, platform):
    for wanted, kept in ((0, 60), (-5, 60), (61, 61), (10**9, 86_400)):
        make(admin, email=f"s{kept}@x.test", expiresInSeconds=wanted)
        (row,) = rows(
            platform,
            "SELECT round(extract(epoch FROM expires_at - created_at))"
            " FROM trellis.magic_link_tokens ORDER BY created_at DESC LIMIT 1",
        )
        assert row[0] == kept, wanted
    token = make(admin)
    rows(platform, "UPDATE trellis.magic_link_tokens SET expires_at = now()")
    assert error(use(client, token)) == REFUSED
    age = "UPDATE trellis.magic_link_tokens SET expires_at = now() - interval '7 days 1 s'"
    rows(platform, f"{age} WHERE email LIKE 's%'")
    auth_tasks.prune(platform, **PruneSignIns().arguments())
    assert rows(platform, "SELECT email FROM trellis.magic_link_tokens") == [("nora@acme.test",)]


def test_a_link_is_worth_what_its_author_is(client, admin, inviter, platform):
    tokens = [make(inviter, email=f"n{n}@x.test", roles=["lead"]) for n in range(5)]
    assert signed_in(client, use(client, tokens[0])).get("/permissions").json["roles"] == [
        "lead",
        "staff",
    ]
    admin.patch("/roles/lead", {"permissions": []})  # no longer one who may invite
    assert error(use(client, tokens[1])) == REFUSED
    admin.post("/roles/revoke", {"userId": inviter.user_id, "role": "lead"})
    admin.patch("/roles/lead", {"permissions": ["auth.invite"]})
    assert error(use(client, tokens[1])) == REFUSED
    # Nothing was written: once the author is who they were, the link is good again.
    admin.post("/roles/assign", {"userId": inviter.user_id, "role": "lead"})
    assert use(client, tokens[1]).status_code == 200
    rows(platform, "UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'ivy%'")
    assert error(use(client, tokens[2])) == REFUSED
    rows(platform, "UPDATE trellis.users SET disabled_at = NULL WHERE email LIKE 'ivy%'")
    # A role that is gone is passed over, an author who is gone takes the links along.
    both = make(admin, email="n9@x.test", roles=["other", "base"])
    admin.delete("/roles/other")
    assert signed_in(client, use(client, both)).get("/permissions").json["roles"] == ["base"]
    admin.delete(f"/users/{inviter.user_id}")
    assert error(use(client, tokens[3])) == REFUSED
    assert [user["email"] for user in admin.get("/users").json] == [
        *("admin@example.com", "n0@x.test", "n1@x.test", "n9@x.test"),
    ]


def test_who_cannot_sign_in_is_refused(client, admin, platform):
    nora = client.sign_up("nora@acme.test")
    robot = make(admin, email="robot@acme.test")
    rows(
        platform,
        "INSERT INTO trellis.users (id, email, kind, is_system)"
        " VALUES (gen_random_uuid(), 'robot@acme.test', 'agent', true)",
    )
    assert error(use(client, robot)) == (401, "account not available")
    token = make(admin)
    rows(platform, "UPDATE trellis.users SET disabled_at = now() WHERE email LIKE 'nora%'")
    assert error(use(client, token)) == (401, "account not available")
    rows(platform, "UPDATE trellis.users SET disabled_at = NULL")
    # Deleting a person takes the links to them along.
    admin.delete(f"/users/{nora.user_id}")
    assert error(use(client, token)) == REFUSED


def test_of_parallel_uses_one_succeeds(client, admin):
    token = make(admin)
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(use(client, token).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [401] * 5
    assert len(admin.get("/users").json) == 2
