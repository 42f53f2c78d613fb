"""The brake on guessing credentials (contract part 10, section 10.5)."""

import threading
from dataclasses import replace

import pytest
from redis import Redis

from app.auth.throttle import PER_ADDRESS, PER_PAIR, WINDOW_S, Throttle
from app.core.errors import TooMany, Unauthenticated
from app.factory import create_app
from tests.support.api import PASSWORD, ApiClient, error

TEXT = "too many attempts, try again later"


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def fail(throttle, address="10.0.0.1", name="nora@acme.test"):
    with pytest.raises(Unauthenticated), throttle.attempt(address, name):
        raise Unauthenticated("no")


def login(client, password, email="nora@acme.test", address="10.0.0.1"):
    return client.post(
        "/auth/login",
        {"email": email, "password": password},
        environ_overrides={"REMOTE_ADDR": address},
    )


def test_ten_failures_for_one_address_and_account_are_enough(client):
    client.sign_up("nora@acme.test")
    for _ in range(PER_PAIR):
        assert error(login(client, "wrong"))[0] == 401
    answer = login(client, PASSWORD)
    assert error(answer) == (429, TEXT)
    assert 0 < int(answer.headers["Retry-After"]) <= WINDOW_S
    # The account itself is not locked, and neither is the address for other accounts.
    assert login(client, PASSWORD, address="10.0.0.2").status_code == 200
    client.sign_up("otto@acme.test")
    assert login(client, PASSWORD, email="otto@acme.test").status_code == 200


def test_a_success_clears_the_counter(client):
    client.sign_up("nora@acme.test")
    for _ in range(2):
        for _ in range(PER_PAIR - 1):
            assert error(login(client, "wrong"))[0] == 401
        assert login(client, PASSWORD).status_code == 200


def test_attempts_sent_all_at_once_count_too(client):
    client.sign_up("nora@acme.test")
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(login(client, "wrong").status_code))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Some are between their hash and their count when the next one begins; far from all.
    assert statuses.count(401) < 2 * PER_PAIR
    assert statuses.count(401) + statuses.count(429) == 30


def test_the_window_slides(redis):
    now = [1000.0]
    throttle = Throttle(redis, now=lambda: now[0])
    for _ in range(PER_PAIR):
        fail(throttle)
        now[0] += 10
    with pytest.raises(TooMany) as caught, throttle.attempt("10.0.0.1", "nora@acme.test"):
        pass
    assert caught.value.retry_after_s == WINDOW_S - 100
    now[0] = 1000.0 + WINDOW_S
    fail(throttle)
    with pytest.raises(TooMany), throttle.attempt("10.0.0.1", "nora@acme.test"):
        pass


def test_one_address_may_fail_a_hundred_times_in_all(redis):
    throttle = Throttle(redis)
    for number in range(PER_ADDRESS):
        fail(throttle, name=f"user{number}@acme.test")
    with pytest.raises(TooMany), throttle.attempt("10.0.0.1", "somebody@acme.test"):
        pass
    with pytest.raises(TooMany), throttle.attempt("10.0.0.1"):
        pass
    with throttle.attempt("10.0.0.2"):
        pass


def test_what_is_kept_in_redis_is_small_and_goes_away(redis):
    throttle = Throttle(redis)
    for _ in range(PER_PAIR):
        fail(throttle)
    keys = redis.keys("auth:failures:*")
    assert len(keys) == 2
    assert all(0 < redis.ttl(key) <= WINDOW_S for key in keys)
    assert not any("nora" in key or "10.0.0.1" in key for key in keys)


def test_every_other_credential_is_counted_by_address(client):
    def key(number):
        form = {"grant_type": "client_credentials", "client_id": str(number)}
        return client.http.post("/api/v1/auth/token", data=form)

    ways = [
        lambda _: client.post("/auth/refresh", {"refreshToken": "junk"}),
        lambda _: client.post("/auth/nonce-exchange", {"nonce": "junk"}),
        lambda _: client.post("/auth/magic-link/consume", {"token": "junk"}),
        lambda _: client.get("/auth/magic-link/consume?token=junk"),
        key,
    ]
    for number in range(PER_ADDRESS):
        assert error(ways[number % len(ways)](number))[0] == 401
    for way in ways:
        assert error(way("other")) == (429, TEXT)
    assert error(client.post("/auth/login", {"email": "a@b.test", "password": "x"})) == (429, TEXT)
    assert (
        client.post("/auth/register", {"email": "a@b.test", "password": PASSWORD}).status_code
        == 201
    )


def test_without_redis_nothing_is_throttled(platform):
    away = replace(
        platform, redis=Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.1)
    )
    client = ApiClient(create_app(away).test_client())
    client.sign_up("nora@acme.test")
    for _ in range(PER_PAIR + 1):
        assert error(login(client, "wrong"))[0] == 401
    assert login(client, PASSWORD).status_code == 200


def test_it_can_be_turned_off(platform):
    auth = replace(platform.settings.auth, throttle=False)
    open_ = replace(platform, settings=replace(platform.settings, auth=auth))
    client = ApiClient(create_app(open_).test_client())
    for _ in range(PER_PAIR + 1):
        assert error(login(client, "wrong"))[0] == 401
