"""Liveness and the state of the parts the platform stands on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy import text

from app.core.platform import Platform
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("system", __name__, description="Health and status")


@blp.route("/health", methods=["GET"])
@blp.doc(summary="Tell that the process is alive, whatever else is down")
def health() -> dict[str, str]:
    """Return ``{"status": "ok"}``, always."""
    return {"status": "ok"}


gates.public(health)


@blp.route(f"{PREFIX}/status")
class Status(View):
    """The state of the runtime's parts."""

    @gates.signed_in
    @blp.doc(summary="Show the state of the platform's parts")
    def get(self) -> dict[str, Any]:  # Any: the contract's fixed shape
        """Return the states; Postgres has answered already, or the caller got 503."""
        self.uow.session.execute(text("SELECT 1"))
        return {
            "runtime": {"version": version("trellis-platform"), "state": "online"},
            "postgres": {"state": "online", "port": None, "data_dir": None},
            "redis": {"state": _redis_state(self.platform)},
            "forge": {"state": "offline", "port": None},
        }


def _redis_state(platform: Platform) -> str:
    try:
        platform.redis.ping()
    except (RedisError, OSError):
        return "offline"
    return "online"
