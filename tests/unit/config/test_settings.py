import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from config.keys import load_or_create_key
from config.settings import AppEnv, ConfigurationError, load_settings, redacted_url


@pytest.fixture
def env(tmp_path):
    return {
        "DATABASE_URL": "postgres://trellis:secret@db.test:5432/trellis",
        "REDIS_URL": "redis://cache.test:6379/0",
        "TRELLIS_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_a_database_url_means_psycopg2(env, scheme):
    env["DATABASE_URL"] = f"{scheme}://u:p@h/d"
    assert load_settings(env).database.url == "postgresql+psycopg2://u:p@h/d"


def test_defaults_are_typed(env):
    settings = load_settings(env)
    assert settings.env is AppEnv.DEVELOPMENT
    assert settings.jobs.visibility_timeout == timedelta(seconds=120)
    assert settings.workers.deploy_max_bytes == 52_428_800
    assert settings.auth.access_ttl == timedelta(seconds=900)
    assert settings.workers.caller_token is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", ""),
        ("REDIS_URL", "http://h"),
        ("JWT_SECRET", "too short"),
        ("MASTER_KEY", "zz"),
        ("MASTER_KEYS_PREVIOUS", f"{'0' * 64},zz"),
        ("WORKER_SANDBOX_FLOOR", "high"),
        ("JOB_VISIBILITY_TIMEOUT", "soon"),
        ("JOB_VISIBILITY_TIMEOUT", "0"),
        ("JOB_MAX_DELIVERIES", "-1"),
        ("WORKER_CALLER_TOKEN", "perhaps"),
        ("PUBLIC_URL", "not a url"),
        ("LOG_LEVEL", "LOUD"),
        ("APP_ENV", "staging"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(env, name, value):
    env[name] = value
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        load_settings(env)


@pytest.mark.parametrize(
    ("text", "on"), [("true", True), ("1", True), ("", False), ("yes", False), ("0", False)]
)
def test_only_true_and_1_turn_password_login_off(env, text, on):
    env["DISABLE_PASSWORD_LOGIN"] = text
    assert load_settings(env).auth.disable_password_login is on


def test_keys_are_generated_once_and_kept_private(env, tmp_path):
    first = load_settings(env).auth
    second = load_settings(env).auth
    assert first == second
    assert len(first.master_key) == 64
    assert first.jwt_secret != first.master_key
    for name in ("jwt.key", "master.key"):
        mode = (tmp_path / "data" / "config" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_simultaneous_starts_agree_on_one_key(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        keys = set(
            pool.map(lambda _: load_or_create_key(tmp_path / "config" / "jwt.key"), range(64))
        )
    assert len(keys) == 1


@pytest.mark.parametrize("missing", ["JWT_SECRET", "MASTER_KEY"])
def test_production_refuses_to_start_without_given_keys(env, missing):
    env |= {"APP_ENV": "production", "JWT_SECRET": "x" * 32, "MASTER_KEY": "ab" * 32}
    load_settings(env)
    env[missing] = ""
    with pytest.raises(ConfigurationError, match=f"^{missing}: must be set in production"):
        load_settings(env)


def test_a_provider_needs_a_safe_issuer_an_id_and_a_secret(env):
    assert load_settings({**env, "OIDC_CLIENT_ID": "x"}).oidc.issuer == ""
    env |= {"OIDC_ISSUER": "https://sso.test/a", "OIDC_CLIENT_ID": "x", "OIDC_CLIENT_SECRET": "y"}
    for issuer in (
        "https://sso.test/a",
        "http://localhost:8080/a",
        "http://[::1]:1",
        "http://127.0.0.1",
    ):
        assert load_settings({**env, "OIDC_ISSUER": issuer}).oidc.issuer == issuer
    for issuer in ("sso.test", "http://sso.test", "http://localhost.test", "https://", "ftp://x"):
        with pytest.raises(ConfigurationError, match="^OIDC_ISSUER: must be an https"):
            load_settings({**env, "OIDC_ISSUER": issuer})
    for missing in ("OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"):
        with pytest.raises(ConfigurationError, match=f"^{missing}: must be set when OIDC_ISSUER"):
            load_settings({**env, missing: ""})


def test_a_url_for_people_has_no_password():
    assert redacted_url("postgresql+psycopg2://u:pw@h:5/d") == "postgresql+psycopg2://h:5/d"


def test_the_reference_page_is_generated_from_the_declarations():
    from config import reference

    assert reference.TARGET.read_text(encoding="utf-8") == reference.render()
