"""What an agent may do for somebody: never more than either of them.

Source: REST contract part 40, section 1.3; part 10, section 7.6.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.agents.control import RunFailed
from app.agents.runs import Run
from app.agents.tools.base import Tool
from app.core.actor import Actor, Kind, Source
from app.core.errors import missing_permission
from app.core.ids import agent_user_id
from app.core.permissions import Permissions
from app.rbac import service as rbac_service

__all__ = ["DISABLED", "Authority", "agent_email", "agent_user_id", "own_app_only", "resolve"]

DISABLED = "the invoking user is disabled"


@dataclass(frozen=True, slots=True)
class Authority:
    """The rights of one run.

    Attributes:
        scope: effective permissions; what data, actions and integrations are checked against.
        agent: the agent's own permissions; which built-in tools it may use at all.
        invoker: who asked, with their full permissions now.
        hook_depth: how many hooks in a row led to the run.
    """

    scope: Permissions
    agent: Permissions
    invoker: Actor
    hook_depth: int = 0

    def may_use(self, tool: Tool) -> bool:
        """Tell whether the agent, and for foreign tools the invoker too, may use a tool at all."""
        return self.agent.match(tool.key) and (not tool.foreign or self.scope.match(tool.key))

    def require(self, tool: Tool) -> None:
        """Raise ``Forbidden`` unless a tool may be used at all."""
        if not self.may_use(tool):
            raise missing_permission(tool.key)

    def actor(self, app_id: str) -> Actor:
        """Return who touches data: the agent, on the invoker's authority."""
        return Actor(
            user_id=agent_user_id(app_id),
            email=agent_email(app_id),
            kind=Kind.AGENT,
            permissions=self.scope,
            source=Source.AGENT_TOOL,
            delegator_id=self.invoker.user_id,
            hook_depth=self.hook_depth,
        )

    def caller(self) -> Actor:
        """Return who calls actions: the invoker, narrowed to the effective permissions."""
        return Actor(
            user_id=self.invoker.user_id,
            email=self.invoker.email,
            kind=self.invoker.kind,
            permissions=self.scope,
            source=Source.AGENT_TOOL,
            delegator_id=self.invoker.user_id,
            hook_depth=self.hook_depth,
        )


def agent_email(app_id: str) -> str:
    """Return the address of an agent's principal."""
    return f"agent+{app_id}@localhost"


def resolve(session: Session, run: Run, parent: Authority | None = None) -> Authority:
    """Return what a run may do from now on.

    Frozen at the first call; later calls can only take rights away.

    Args:
        session: an open transaction.
        run: the run.
        parent: rights of the run that asked for this one.

    Raises:
        RunFailed: nobody asked, the invoker is disabled or may not invoke the agent any more.
    """
    invoker = None if run.invoker_id is None else rbac_service.load_actor(session, run.invoker_id)
    if invoker is None:
        raise RunFailed(DISABLED)
    agent = rbac_service.load_actor(session, agent_user_id(run.app_id))
    own = Permissions() if agent is None else agent.permissions
    if parent is not None:
        scope = own.intersect(parent.scope)
    else:
        invoke = f"app:{run.app_id}:invoke"
        if not invoker.can(invoke):
            raise RunFailed(f"missing permission: {invoke}")
        scope = own.intersect(invoker.permissions)
    if run.config.get("autonomous"):
        scope = own_app_only(scope, run.app_id)
    if run.scope is not None:
        scope = run.scope.intersect(scope)
    if run.agent_scope is not None:
        own = run.agent_scope.intersect(own)
    depth = (run.job or {}).get("hook_depth", 0) if parent is None else parent.hook_depth
    return Authority(scope, own, invoker, depth)


def own_app_only(scope: Permissions, app_id: str) -> Permissions:
    """Drop rights in other apps.

    A grant of everything becomes everything in the own app: dropping keys one by one cannot
    narrow a wildcard.
    """
    own = f"app:{app_id}:"
    if scope.everything:
        return Permissions.of({f"{own}*", "tool:*", "integration:*"})
    kept = {key for key in scope.keys if key.startswith(own) or not key.startswith("app:")}
    if "app:*" in scope.keys:
        kept.add(f"{own}*")
    return Permissions.of(kept)
