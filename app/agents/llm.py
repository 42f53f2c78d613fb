"""The registry of language models.

Source: REST contract part 40, section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.agents.control import RunFailed
from app.agents.models import LLMModel
from app.agents.providers.base import ModelConfig
from app.core.crypto import Cipher
from app.core.errors import Conflict, Invalid, NotFound
from app.core.uow import UnitOfWork
from app.secrets import service as secrets_service

JSONObject = dict[str, Any]  # Any: JSON values

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PROVIDERS = ("anthropic", "openai")
DEFAULT_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
KEYS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "base_url": (str, "a string"),
    "api": (str, "a string"),
    "api_key_secret": (str, "a string"),
    "max_tokens": (int, "an integer"),
    "temperature": ((int, float), "a number"),
    "timeout_s": ((int, float), "a number"),
    "headers": (dict, "an object"),
    "supports_images": (bool, "a boolean"),
    "supports_documents": (bool, "a boolean"),
}
AUTH_HEADERS = frozenset({"authorization", "x-api-key", "api-key"})
KEY_HINT = "store the key as a secret and name it in api_key_secret"


def list_models(session: Session) -> list[LLMModel]:
    """Return the registered models, oldest first."""
    return list(session.scalars(select(LLMModel).order_by(LLMModel.seq)))


def create(uow: UnitOfWork, *, model_id: str, is_default: bool, **values: Any) -> LLMModel:
    """Register a model.

    Raises:
        Invalid: a value breaks a rule.
        Conflict: the id is taken.
    """
    if ID.fullmatch(model_id) is None:
        raise Invalid("id must be 1-64 letters, digits, '.', '_' or '-'")
    _check(**values)
    if uow.session.get(LLMModel, model_id) is not None:
        raise Conflict(f"model '{model_id}' already exists")
    if is_default:
        _clear_default(uow.session)
    model = LLMModel(id=model_id, is_default=is_default, **values)
    uow.session.add(model)
    # The answer shows what the database filled in; a duplicate must show here, not at commit.
    uow.session.flush()
    return model


def replace(uow: UnitOfWork, *, model_id: str, is_default: bool, **values: Any) -> None:
    """Replace a model's description.

    Raises:
        NotFound: there is no such model.
        Invalid: a value breaks a rule.
    """
    model = _require(uow.session, model_id)
    _check(**values)
    if is_default and not model.is_default:
        _clear_default(uow.session)
    model.is_default = is_default
    for name, value in values.items():
        setattr(model, name, value)


def delete(uow: UnitOfWork, *, model_id: str) -> None:
    """Forget a model.

    Raises:
        NotFound: there is no such model.
    """
    uow.session.delete(_require(uow.session, model_id))


def make_default(uow: UnitOfWork, *, model_id: str) -> None:
    """Make one model the default.

    Raises:
        NotFound: there is no such model.
    """
    model = _require(uow.session, model_id)
    _clear_default(uow.session)
    model.is_default = True


def choose(session: Session, wanted: str | None) -> JSONObject | None:
    """Return the snapshot of the model a run is to use; None when none is registered.

    The wanted one if it is registered, else the default, else the oldest.
    """
    models = list_models(session)
    by_rank = sorted(models, key=lambda m: (m.id != wanted, not m.is_default, m.seq))
    if not by_rank:
        return None
    best = by_rank[0]
    return {
        "id": best.id,
        "provider": best.provider,
        "model": best.model,
        "config": dict(best.config),
    }


def configured(
    session: Session, cipher: Cipher, app_id: str, snapshot: JSONObject, *, call_limit_s: float
) -> ModelConfig:
    """Return everything needed to call a model, its key included.

    Raises:
        RunFailed: a key is needed and there is none.
    """
    config = snapshot["config"]
    provider = str(snapshot["provider"]).lower()
    base_url = config.get("base_url")
    secret = config.get("api_key_secret") or DEFAULT_KEYS[provider]
    key = secrets_service.snapshot(session, cipher, app_id).get(secret)
    if key is None and base_url is None:
        raise RunFailed(f"model credentials are missing: {secret}")
    foreign = provider == "openai" and base_url is not None
    return ModelConfig(
        provider=provider,
        model=snapshot["model"],
        api="messages" if provider == "anthropic" else config.get("api", "chat"),
        base_url=base_url,
        api_key=key,
        max_tokens=config.get("max_tokens", 4096),
        temperature=config.get("temperature"),
        timeout_s=float(config.get("timeout_s", call_limit_s)),
        headers=config.get("headers", {}),
        supports_images=config.get("supports_images", True),
        supports_documents=config.get("supports_documents", not foreign),
    )


def _require(session: Session, model_id: str) -> LLMModel:
    model = session.get(LLMModel, model_id, with_for_update=True)
    if model is None:
        raise NotFound(f"model '{model_id}' not found")
    return model


def _clear_default(session: Session) -> None:
    session.execute(update(LLMModel).where(LLMModel.is_default).values(is_default=False))


def _check(*, name: str, provider: str, model: str, config: JSONObject) -> None:
    if not name.strip():
        raise Invalid("field 'name' must not be empty")
    if provider.lower() not in PROVIDERS:
        raise Invalid(f"unknown provider '{provider}'")
    if not model.strip():
        raise Invalid("field 'model' must not be empty")
    _check_config(provider.lower(), config)


def _check_config(provider: str, config: JSONObject) -> None:
    if any(
        key.lower().replace("-", "_") in {"api_key", "apikey", "key", "token"} for key in config
    ):
        raise Invalid(KEY_HINT)
    for key, (kind, words) in KEYS.items():
        value = config.get(key)
        wrong_bool = isinstance(value, bool) and kind is not bool
        if value is not None and (wrong_bool or not isinstance(value, kind)):
            raise Invalid(f"field 'config.{key}' must be {words}")
    _check_values(provider, config)


def _check_values(provider: str, config: JSONObject) -> None:
    if config.get("api") is not None and (
        provider != "openai" or config["api"] not in {"chat", "responses"}
    ):
        raise Invalid("field 'config.api' must be 'chat' or 'responses', for openai only")
    base_url = config.get("base_url")
    if base_url is not None and re.match(r"https?://[^/\s]+", base_url) is None:
        raise Invalid("field 'config.base_url' must be a URL")
    if config.get("max_tokens") is not None and config["max_tokens"] < 1:
        raise Invalid("field 'config.max_tokens' must be at least 1")
    if config.get("timeout_s") is not None and not 0 < config["timeout_s"] <= 3600:
        raise Invalid("field 'config.timeout_s' must be above 0 and at most 3600")
    for name, value in (config.get("headers") or {}).items():
        if not isinstance(value, str):
            raise Invalid(f"field 'config.headers.{name}' must be a string")
        if name.lower() in AUTH_HEADERS:
            raise Invalid(KEY_HINT)
