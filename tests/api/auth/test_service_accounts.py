"""Service accounts, client credentials and act-as (contract part 10, sections 10.2 to 10.4)."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.auth import delegations
from app.auth.throttle import PER_PAIR
from app.core.actor import Actor, Kind
from app.core.errors import Forbidden
from app.rbac import acting
from app.rbac import service as rbac_service
from tests.support.api import ApiClient, error

MANAGE = "admin:service_accounts.manage"
NOT_ALLOWED = (403, "not allowed to act as this principal")
SYSTEM = "00000000-0000-0000-0000-000000000001"
DEALS = {
    "appId": "crm",
    "name": "CRM",
    "version": "1.0.0",
    "dataContract": [{"entityName": "deals", "fields": [{"name": "title", "type": "text"}]}],
}


@pytest.fixture
def bot(admin):
    """Return the id of a service account."""
    return admin.post("/service-accounts", {"slug": "bot", "displayName": "The Bot"}).json["id"]


def new_key(admin, account_id, **body):
    answer = admin.post(f"/service-accounts/{account_id}/credentials", {"name": "ci", **body})
    assert answer.status_code == 201, answer.json
    return answer.json


def ask_token(client, account_id, key, **changes):
    form = {"grant_type": "client_credentials", "client_id": account_id, "client_secret": key}
    return client.http.post("/api/v1/auth/token", data={**form, **changes})


def signed_in(client, account_id, key):
    answer = ask_token(client, account_id, key)
    assert answer.status_code == 200, answer.json
    return ApiClient(client.http, answer.json["access_token"], account_id)


def rows(platform, statement, **values):
    with platform.engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else None


def log_of(admin):
    return [entry["event"] for entry in reversed(admin.get("/audit?source=security").json)]


def test_an_account_is_born_without_rights_and_shown_by_address(admin, platform):
    answer = admin.post("/service-accounts", {"slug": "zulu_1", "displayName": "Zulu"})
    assert answer.status_code == 201
    assert answer.json == {"id": answer.json["id"], "email": "sa+zulu_1@localhost"}
    other = admin.post("/service-accounts", {"slug": "-a"}).json
    listed = admin.get("/service-accounts").json
    assert [row["id"] for row in listed] == [other["id"], answer.json["id"]]
    assert listed[1] == {
        "id": answer.json["id"],
        "email": "sa+zulu_1@localhost",
        "displayName": "Zulu",
        "disabled": False,
        "createdAt": listed[1]["createdAt"],
    }
    assert listed[1]["createdAt"].endswith("Z")
    nothing = {"roles": [], "permissions": []}
    assert admin.get(f"/permissions/{other['id']}").json == nothing
    (row,) = rows(
        platform,
        "SELECT kind, is_system, password_hash, owner_of_record FROM trellis.users WHERE id = :id",
        id=other["id"],
    )
    assert row == ("service", True, None, UUID(admin.user_id))
    assert [user["email"] for user in admin.get("/users").json] == ["admin@example.com"]
    for slug in ("", "Upper", "a b", "a+b", "x" * 49, "é"):
        text_ = "slug must be 1-48 characters of a-z, 0-9, _ and -"
        assert error(admin.post("/service-accounts", {"slug": slug})) == (400, text_)
    assert error(admin.post("/service-accounts", {"slug": "-a"})) == (
        400,
        "service account '-a' already exists",
    )
    assert error(admin.post("/service-accounts", {})) == (400, "field 'slug' is required")
    assert error(admin.post("/service-accounts", {"slug": "b", "displayName": "x" * 256}))[0] == 400


def test_the_gate_comes_before_everything_and_others_are_not_found(client, admin, bot):
    nora = client.sign_up("nora@acme.test")
    paths = [
        ("POST", ""),
        ("GET", ""),
        ("DELETE", "/x"),
        ("POST", "/x/disable"),
        ("POST", "/x/enable"),
        ("POST", "/x/credentials"),
        ("GET", "/x/credentials"),
        ("DELETE", "/x/credentials/x"),
        ("POST", "/x/transfer-ownership"),
        ("POST", "/x/act-as"),
        ("DELETE", "/x/act-as"),
    ]
    for method, path in paths:
        answer = nora.request(method, f"/service-accounts{path}")
        assert error(answer) == (403, f"missing permission: {MANAGE}"), path
        assert error(client.request(method, f"/service-accounts{path}"))[0] == 401, path
    admin.post("/roles", {"name": "keeper", "permissions": [MANAGE]})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "keeper"})
    assert len(nora.get("/service-accounts").json) == 1
    bodies = {
        "/credentials": {"name": "x"},
        "/transfer-ownership": {"new_owner": nora.user_id},
        "/act-as": {"userId": nora.user_id},
    }
    for account in (str(uuid4()), nora.user_id, SYSTEM):
        for method, path in paths[2:]:
            tail = path[2:].replace("/x", f"/{uuid4()}")
            answer = nora.request(
                method, f"/service-accounts/{account}{tail}", json=bodies.get(tail)
            )
            assert error(answer) == (404, "service account not found"), path
    assert error(nora.delete("/service-accounts/x")) == (400, "not a valid UUID: 'x'")


def test_a_key_is_swapped_for_an_access_token(client, admin, bot, platform, settings):
    made = new_key(admin, bot)
    assert set(made) == {"id", "key", "prefix", "expiresAt", "note"}
    assert made["key"].startswith("rcs_")
    assert len(made["key"]) == 47
    assert made["prefix"] == made["key"][:12]
    answer = ask_token(client, bot.upper(), made["key"])
    assert answer.status_code == 200
    assert answer.json == {
        "access_token": answer.json["access_token"],
        "token_type": "Bearer",
        "expires_in": 900,
    }
    assert answer.headers["Cache-Control"] == "no-store"
    program = ApiClient(client.http, answer.json["access_token"])
    me = program.get("/auth/me").json
    assert (me["id"], me["email"], me["displayName"]) == (bot, "sa+bot@localhost", "The Bot")
    assert error(program.get("/roles/assignments")) == (403, "administrator permission required")
    admin.post("/roles/assign", {"userId": bot, "role": "admin"})
    assert program.get("/roles/assignments").status_code == 200
    assert error(program.get("/platform/secrets")) == (
        403,
        "only human users manage platform secrets",
    )
    assert rows(platform, "SELECT count(*) FROM trellis.sessions WHERE user_id = :u", u=bot) == [
        (0,)
    ]
    (stored,) = rows(
        platform,
        "SELECT *, last_used_at > now() - interval '1 min' AS used"
        " FROM trellis.service_credentials",
    )
    assert stored.used
    assert made["key"] not in repr(stored)
    assert made["key"].encode() not in bytes(stored.key_hash)
    # A human with the role admin counts for the last-admin rule, a program does not.
    assert error(admin.delete(f"/users/{admin.user_id}")) == (400, "cannot delete the last admin")
    assert log_of(admin)[-4:] == [
        "service_account_created",
        "credential_created",
        "client_admitted",
        "role_assigned",
    ]
    assert made["key"] not in repr(admin.get("/audit?source=security").json)


def test_every_other_failure_is_one_text(client, admin, bot, platform):
    live, gone, old = (new_key(admin, bot) for _ in range(3))
    other = admin.post("/service-accounts", {"slug": "other"}).json["id"]
    foreign = new_key(admin, other)["key"]
    path = f"/service-accounts/{bot}/credentials/{gone['id']}"
    assert admin.delete(path).json == {"message": "credential revoked"}
    assert error(admin.delete(path)) == (404, "credential not found")
    assert error(admin.delete(f"/service-accounts/{other}/credentials/{live['id']}")) == (
        404,
        "credential not found",
    )
    rows(
        platform,
        "UPDATE trellis.service_credentials SET expires_at = now() WHERE id = :i",
        i=old["id"],
    )
    assert ask_token(client, bot, live["key"]).status_code == 200
    wrong = [
        (bot, gone["key"]),
        (bot, old["key"]),
        (bot, foreign),
        (bot, live["key"][:-1]),
        (bot, ""),
        (str(uuid4()), live["key"]),
        (admin.user_id, live["key"]),
        (SYSTEM, live["key"]),
        ("bot\0", live["key"]),
    ]
    for account, key in wrong:
        assert error(ask_token(client, account, key)) == (401, "invalid_client"), account
    admin.post(f"/service-accounts/{bot}/disable")
    assert error(ask_token(client, bot, live["key"])) == (401, "invalid_client")
    admin.post(f"/service-accounts/{bot}/enable")
    for grant in ("", "password", "authorization_code"):
        answer = ask_token(client, bot, live["key"], grant_type=grant)
        assert error(answer) == (400, "unsupported_grant_type")
    listed = admin.get(f"/service-accounts/{bot}/credentials").json
    assert [row["id"] for row in listed] == [old["id"], gone["id"], live["id"]]
    shown = listed[2]
    assert {name: shown[name] for name in ("name", "prefix", "revokedAt")} == {
        "name": "ci",
        "prefix": live["prefix"],
        "revokedAt": None,
    }
    assert shown["lastUsedAt"] > shown["createdAt"]
    assert [bool(row["lastUsedAt"]) for row in listed] == [False, False, True]
    assert [bool(row["revokedAt"]) for row in listed] == [False, True, False]
    assert live["key"] not in repr(listed)
    # JSON is not what the grant is spelled in.
    body = {"grant_type": "client_credentials", "client_id": bot, "client_secret": live["key"]}
    assert error(client.post("/auth/token", body)) == (400, "unsupported_grant_type")
    rows(platform, "UPDATE trellis.users SET owner_of_record = NULL WHERE id = :i", i=bot)
    no_owner = (400, "service account has no owner of record")
    assert error(ask_token(client, bot, live["key"])) == no_owner
    assert error(ask_token(client, bot, "wrong")) == (401, "invalid_client")
    assert "client_refused" in log_of(admin)


def test_keys_expire_within_a_year_and_guessing_is_slowed_down(client, admin, bot, platform):
    for days, kept in ((None, 90), (0, 1), (-5, 1), (366, 365), (30, 30)):
        body = {} if days is None else {"expiresInDays": days}
        made = new_key(admin, bot, **body)
        (row,) = rows(
            platform,
            "SELECT round(extract(epoch FROM expires_at - now()) / 86400)"
            " FROM trellis.service_credentials WHERE id = :i",
            i=made["id"],
        )
        assert row[0] == kept, days
    path = f"/service-accounts/{bot}/credentials"
    for days in ("90", True, 1.5):
        body = {"name": "x", "expiresInDays": days}
        assert error(admin.post(path, body)) == (400, "field 'expiresInDays' must be an integer")
    for name in ("", " ", "x" * 256):
        assert error(admin.post(path, {"name": name}))[0] == 400
    assert error(admin.post(path, {})) == (400, "field 'name' is required")
    for _ in range(PER_PAIR):
        assert error(ask_token(client, bot, "rcs_wrong"))[0] == 401
    refused = ask_token(client, bot.upper(), made["key"])
    assert error(refused) == (429, "too many attempts, try again later")
    assert int(refused.headers["Retry-After"]) > 0
    # Other accounts of the same address are not slowed down yet.
    other = admin.post("/service-accounts", {"slug": "other"}).json["id"]
    assert ask_token(client, other, new_key(admin, other)["key"]).status_code == 200


def test_disabling_and_deleting_act_on_live_tokens_at_once(client, admin, bot, platform):
    program = signed_in(client, bot, new_key(admin, bot)["key"])
    path = f"/service-accounts/{bot}"
    for _ in range(2):
        answer = admin.post(f"{path}/disable")
        assert (answer.status_code, answer.json) == (200, {"id": bot, "disabled": True})
    assert error(program.get("/auth/me")) == (401, "invalid or expired token")
    assert admin.get("/service-accounts").json[0]["disabled"] is True
    for _ in range(2):
        assert admin.post(f"{path}/enable").json == {"id": bot, "disabled": False}
    assert program.get("/auth/me").status_code == 200
    log = log_of(admin)
    assert log.count("service_account_disabled") == log.count("service_account_enabled") == 1

    nora = client.sign_up("nora@acme.test")
    admin.post(f"{path}/act-as", {"userId": nora.user_id})
    owned = admin.post("/service-accounts", {"slug": "owned"}).json["id"]
    rows(platform, "UPDATE trellis.users SET owner_of_record = :b WHERE id = :o", b=bot, o=owned)
    admin.post("/apps", DEALS)
    cron = {"name": "c", "schedule": "0 0 1 1 *"}
    admin.post("/roles/assign", {"userId": bot, "role": "app:crm:admin"})
    created = program.post("/apps/crm/crons", cron)
    assert created.json["createdBy"] == bot
    assert admin.delete(path).json == {"message": "service account deleted"}
    assert error(program.get("/auth/me")) == (401, "invalid or expired token")
    assert error(admin.delete(path)) == (404, "service account not found")
    assert rows(platform, "SELECT 1 FROM trellis.service_credentials") == []
    live = "SELECT 1 FROM trellis.agent_delegations WHERE revoked_at IS NULL AND agent_user_id = :b"
    assert rows(platform, live, b=bot) == []
    assert admin.get("/apps/crm/crons").json[0]["createdBy"] is None
    found = rows(platform, "SELECT owner_of_record FROM trellis.users WHERE id = :o", o=owned)
    assert found == [(UUID(admin.user_id),)]
    assert log_of(admin)[-1] == "service_account_deleted"


def test_a_human_answers_for_an_account(client, admin, bot):
    nora = client.sign_up("nora@acme.test")
    path = f"/service-accounts/{bot}/transfer-ownership"
    answer = admin.post(path, {"new_owner": nora.user_id})
    assert (answer.status_code, answer.json) == (
        200,
        {"id": bot, "owner_of_record": nora.user_id},
    )
    for owner in (str(uuid4()), bot, SYSTEM):
        assert error(admin.post(path, {"new_owner": owner})) == (
            400,
            "new_owner must be an existing human user",
        )
    assert error(admin.post(path, {"new_owner": "x"})) == (
        400,
        "field 'new_owner' must be a UUID",
    )
    assert error(admin.post(path, {})) == (400, "field 'new_owner' is required")
    # Whoever deletes the owner answers from then on, so the keys go on working.
    key = new_key(admin, bot)["key"]
    admin.delete(f"/users/{nora.user_id}")
    assert ask_token(client, bot, key).status_code == 200


# Acting as another principal


@pytest.fixture
def work(client, admin, bot):
    """Nora, who may order work in the app ``crm``, and three ways of ordering it for the bot."""
    admin.post("/apps", DEALS)
    nora = client.sign_up("nora@acme.test")
    keys = ["app:crm:invoke", "app:crm:cron.write", "app:crm:cron.read", "app:crm:hook.write"]
    admin.post("/roles", {"name": "worker", "permissions": keys})
    admin.post("/roles/assign", {"userId": nora.user_id, "role": "worker"})
    names = iter(range(1000))

    def order(who, owner):
        hook = {"entity": "deals", "operation": "insert", "action_type": "job"}
        cron = {"name": f"c{next(names)}", "schedule": "0 0 1 1 *"}
        job = {"payload": {}, "user_id": owner}
        return [
            who.post("/apps/crm/crons", {**cron, "runAs": owner}),
            who.post("/apps/crm/hooks", {**hook, "runAs": owner}),
            who.post("/apps/crm/jobs", job),
            who.post("/apps/crm/jobs/batch", {"jobs": [job]}),
        ]

    return nora, order


def test_acting_as_needs_a_delegation_and_every_right_of_the_target(
    client, admin, bot, work, platform
):
    nora, order = work
    path = f"/service-accounts/{bot}/act-as"
    # (a) nobody is exempt, not even an administrator, and unknown principals look the same.
    for who in (nora, admin):
        assert {error(answer) for answer in order(who, bot)} == {NOT_ALLOWED}
    assert {error(answer) for answer in order(admin, str(uuid4()))} == {NOT_ALLOWED}
    assert {error(answer) for answer in order(nora, admin.user_id)} == {NOT_ALLOWED}
    for _ in range(2):
        answer = admin.post(path, {"userId": nora.user_id})
        assert (answer.status_code, answer.json) == (200, {"message": "act-as granted"})
    admin.post(path, {"userId": admin.user_id})

    cron, hook, job, batch = order(nora, bot.upper())
    assert cron.json["createdBy"] == hook.json["created_by"] == bot
    owners = {row["user_id"] for row in admin.get("/apps/crm/jobs").json}
    assert (job.status_code, batch.status_code, owners) == (201, 201, {bot})
    # One's own name needs nothing; malformed names are told.
    assert {answer.status_code for answer in order(nora, nora.user_id)} <= {200, 201}
    texts = [error(answer) for answer in order(nora, "me")]
    runs, users = (400, "invalid runAs"), (400, "invalid user_id")
    assert texts == [runs, runs, users, users]

    # (b) every right of the target, wildcards included.
    admin.post("/roles", {"name": "more", "permissions": ["app:crm:invoke", "app:crm:deals.*"]})
    admin.post("/roles/assign", {"userId": bot, "role": "more"})
    lacking = (403, "target has permissions you do not hold")
    assert {error(answer) for answer in order(nora, bot)} == {lacking}
    assert {answer.status_code for answer in order(admin, bot)} <= {200, 201}
    admin.patch("/roles/more", {"permissions": ["app:crm:*"]})
    assert {error(answer) for answer in order(nora, bot)} == {lacking}
    admin.patch("/roles/worker", {"permissions": ["app:*"]})
    assert {answer.status_code for answer in order(nora, bot)} <= {200, 201}

    # Those who cannot act themselves cannot be acted as; what ended has ended.
    admin.post(f"/service-accounts/{bot}/disable")
    assert [error(answer) for answer in order(nora, bot)] == [runs, runs, users, users]
    admin.post(f"/service-accounts/{bot}/enable")
    for _ in range(2):
        answer = admin.delete(path, json={"userId": nora.user_id})
        assert (answer.status_code, answer.json) == (200, {"message": "act-as revoked"})
    assert {error(answer) for answer in order(nora, bot)} == {NOT_ALLOWED}
    assert {answer.status_code for answer in order(admin, bot)} <= {200, 201}
    rows(platform, "UPDATE trellis.agent_delegations SET expires_at = now()")
    assert {error(answer) for answer in order(admin, bot)} == {NOT_ALLOWED}
    log = log_of(admin)
    assert (log.count("act_as_granted"), log.count("act_as_revoked")) == (2, 1)


def test_agents_never_act_as_others(client, admin, bot, platform):
    path = f"/service-accounts/{bot}/act-as"
    agent = uuid4()
    rows(
        platform,
        "INSERT INTO trellis.users (id, email, kind, is_system)"
        " VALUES (:i, 'agent+x@localhost', 'agent', true)",
        i=str(agent),
    )
    assert error(admin.post(path, {"userId": str(agent)})) == (
        400,
        "an agent cannot act as a service account",
    )
    for unknown in (str(uuid4()), SYSTEM):
        assert error(admin.post(path, {"userId": unknown})) == (404, "user not found")
    assert error(admin.post(path, {"userId": "x"})) == (400, "userId must be a UUID")
    assert error(admin.post(path, {})) == (400, "field 'userId' is required")
    admin.post(path, {"userId": admin.user_id})
    with platform.uow() as uow:
        human = rbac_service.load_actor(uow.session, UUID(admin.user_id))
        through_an_agent = Actor(
            human.user_id, permissions=human.permissions, delegator_id=human.user_id
        )
        delegations.allow_act_as(uow.session, user_id=agent, account_id=UUID(bot))
        itself = Actor(agent, kind=Kind.AGENT, permissions=human.permissions)

        def owner(actor):
            return acting.owner_of_work(uow.session, actor, bot, field="runAs")

        assert owner(human) == UUID(bot)
        for actor in (through_an_agent, itself, Actor(None)):
            with pytest.raises(Forbidden, match="not allowed to act as this principal"):
                owner(actor)
