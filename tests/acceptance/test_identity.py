"""Identity across two API processes of the operating system that share only their servers."""

import contextlib

import httpx

from tests.support.stack import free_port, wait_until

ROUNDS = 4
PROVIDER = {
    "OIDC_ISSUER": "http://127.0.0.1:1",
    "OIDC_CLIENT_ID": "trellis",
    "OIDC_CLIENT_SECRET": "s3cret",
}


def second_process(platform):
    """Start another web process on the same servers; return its URL."""
    port = str(free_port())
    platform.stack.start("web2", "web", PORT=port)
    url = f"http://127.0.0.1:{port}/api/v1"

    def ready():
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/auth/mode").status_code == 200

    wait_until(ready, timeout=30, what="the second process")
    return url


def test_a_change_in_one_process_acts_on_the_next_request_of_the_other(start_platform):
    platform = start_platform("web", WEB_CONCURRENCY="1", **PROVIDER)
    here, url = platform.admin, second_process(platform)
    account = here.post("/service-accounts", json={"slug": "bot"}).json()["id"]
    key = here.post(f"/service-accounts/{account}/credentials", json={"name": "k"}).json()["key"]
    form = {"grant_type": "client_credentials", "client_id": account, "client_secret": key}
    with httpx.Client(base_url=url, timeout=20) as there:
        # The provider of the settings was created once, by whichever process came first.
        listed = [{"id": "default", "displayName": "Single sign-on"}]
        assert there.get("/auth/mode").json()["providers"] == listed
        assert here.get("/auth/oidc/providers").json() == listed
        token = there.post("/auth/token", data=form).json()["access_token"]
        there.headers["Authorization"] = f"Bearer {token}"

        def keys():
            return [row["key"] for row in there.get("/permissions/available").json()]

        assignment = {"userId": account, "role": "r"}
        for _ in range(ROUNDS):
            assert keys() == []
            here.post("/roles", json={"name": "parent", "permissions": ["admin:audit.read"]})
            here.post("/roles", json={"name": "r", "inherits": ["parent"]})
            here.post("/roles/assign", json=assignment)
            assert keys() == ["admin:audit.read"]
            here.patch("/roles/parent", json={"permissions": ["tool:query_data"]})
            assert keys() == ["tool:query_data"]
            here.post("/roles/revoke", json=assignment)
            assert keys() == []
            here.post("/roles/assign", json=assignment)
            assert keys() == ["tool:query_data"]
            here.delete("/roles/r")
            assert keys() == []
            here.delete("/roles/parent")
            here.post(f"/service-accounts/{account}/disable")
            assert there.get("/auth/me").status_code == 401
            assert there.post("/auth/token", data=form).status_code == 401
            here.post(f"/service-accounts/{account}/enable")
        # And the other way round, for what the first process has kept.
        here.post("/roles/assign", json={"userId": account, "role": "admin"})
        me = here.get("/auth/me").json()["id"]
        nora = {"email": "nora@acme.test", "password": "Str0ngPass!x"}
        nora_id = there.post("/auth/register", json=nora).json()["user"]["id"]
        there.post("/roles/assign", json={"userId": nora_id, "role": "admin"})
        revoked = there.post("/roles/revoke", json={"userId": me, "role": "admin"})
        assert revoked.status_code == 200
        assert here.get("/roles/assignments").status_code == 403
        assert there.delete(f"/users/{me}").status_code == 200
        assert here.get("/auth/me").status_code == 401
        assert there.delete(f"/service-accounts/{account}").status_code == 200
        assert there.get("/auth/me").status_code == 401
