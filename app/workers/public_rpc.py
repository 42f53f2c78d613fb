"""Public RPCs: calls without a token, with a share token, and by users without the invoke key.

Source: REST contract part 20, sections 3.12 and 8.
"""

from __future__ import annotations

from typing import Any

from app.apps import service as apps_service
from app.core.actor import ANONYMOUS, Actor
from app.core.errors import Unauthenticated
from app.core.platform import Platform
from app.workers import rpc


def call(
    platform: Platform,
    *,
    app_id: str,
    method: str,
    params: Any,  # Any: a JSON value
    share_token: str | None,
) -> bytes:
    """Call a public RPC as nobody, or with a share; return its answer as JSON.

    Raises:
        Unauthenticated: the method is not open to anyone, or the share token is not good.
        Forbidden: the share does not cover the call.
        AppError: as ``rpc.call``.
    """
    share = ""
    with platform.uow() as uow:
        if share_token is not None:
            share = str(
                apps_service.open_rpc(uow, share_token, app_id=app_id, method=method, params=params)
            )
        elif apps_service.rpc_scope(uow.session, app_id, method) != []:
            raise Unauthenticated("authentication required")
        rpc.check(app_id, method)
    return rpc.call(
        platform,
        ANONYMOUS,
        app_id=app_id,
        method=method,
        params=params,
        key=rpc.NO_KEY,
        share=share,
        authorize=lambda: None,
    )


def refuse(platform: Platform, share_token: str | None) -> None:
    """Raise ``Unauthenticated`` unless there is a good share token."""
    if share_token is None:
        raise Unauthenticated("authentication required")
    with platform.uow() as uow:
        apps_service.check_share(uow.session, share_token)


def open_to_anyone(platform: Platform, actor: Actor, app_id: str, method: str) -> bool:
    """Tell whether a user without the invoke key may call a method, as anyone may."""
    if actor.app_scope is not None:
        return False
    with platform.uow.reading() as session:
        return apps_service.rpc_scope(session, app_id, method) == []
