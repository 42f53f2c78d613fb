"""What other areas and processes ask of agents: registration, autonomous runs, cleaning up.

Source: REST contract part 40, sections 1.2 to 1.4 and 1.14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.agents import definition as definitions
from app.agents import repository, requests, runs
from app.agents import run_repository as run_rows
from app.agents.authority import agent_email, agent_user_id
from app.agents.definition import Definition
from app.agents.events import AgentRegistered
from app.agents.mcp import tools as mcp_tools
from app.agents.messages import RunAgent
from app.agents.models import Agent
from app.agents.tools import registry
from app.apps import service as apps_service
from app.apps.events import AppUninstalled
from app.auth import delegations
from app.auth import service as auth_service
from app.core.actor import Actor
from app.core.errors import Failed, Forbidden, NotFound, missing_permission
from app.core.permissions import EVERYTHING, Permissions
from app.core.platform import Platform
from app.core.uow import UnitOfWork
from app.crons import service as crons_service
from app.crons.events import CronCreated, CronDeleted
from app.rbac import service as rbac_service
from app.workers.events import DeploymentActivated, DeploymentReceived
from workers_runtime.archive import inspect_archive

log = structlog.get_logger(__name__)

JSONObject = dict[str, Any]  # Any: JSON values

ASSISTANT = "assistant"
ASSISTANT_PROMPT = (
    "You are the assistant of this platform. Help people find and change data in their apps and "
    "run the actions that apps offer. Look things up with your tools before you answer. Ask when "
    "a request is unclear. Never invent records."
)
DEFAULT_CRON_MESSAGE = "This is a scheduled run."
PLATFORM_ITSELF = Actor(user_id=None, permissions=Permissions.of([EVERYTHING]))


# --- registration ----------------------------------------------------------------------------


def check_deployment(uow: UnitOfWork, event: DeploymentReceived) -> None:
    """Refuse an archive whose agent.json is wrong, before anything is replaced.

    Raises:
        Invalid: agent.json breaks a rule.
        Forbidden: it wants a permission its deployer does not hold.
    """
    found = definitions.parse(_reader(event.archive))
    if found is None or _has_role(uow, event.app_id):
        return
    for key in found.permissions:
        if not event.actor.can(key):
            raise Forbidden(f"cannot grant permission you do not hold: {key}")


def register_deployment(uow: UnitOfWork, event: DeploymentActivated) -> None:
    """Register the agent of a deployment that becomes current; one without leaves all as it is."""
    found = definitions.parse(_reader(event.open_archive()))
    if found is not None:
        register(uow, event.app_id, found, owner_id=event.deployed_by)


def register(uow: UnitOfWork, app_id: str, found: Definition, *, owner_id: UUID | None) -> None:
    """Insert or overwrite an app's agent, with its identity and first role. Idempotent."""
    known = repository.agent(uow.session, app_id) is not None
    repository.put_agent(
        uow.session,
        app_id,
        owner_id,
        name=found.name,
        description=found.description,
        config=found.config,
        prompt=found.prompt,
    )
    apps_service.mark_agent(uow, app_id, registered=True)
    user_id = agent_user_id(app_id)
    auth_service.ensure_agent(
        uow,
        user_id=user_id,
        email=agent_email(app_id),
        display_name=found.name,
        owner_id=owner_id,
    )
    manifest = apps_service.manifest_of(uow.session, app_id)
    keys = [*default_keys(app_id, manifest), *found.permissions]
    rbac_service.grant_agent_role(uow, app_id, user_id, list(dict.fromkeys(keys)))
    if not known:
        _delegate_existing_crons(uow, app_id)
        uow.emit(AgentRegistered(app_id))
    log.info("agent_registered", app_id=app_id)


def default_keys(app_id: str, manifest: JSONObject) -> list[str]:
    """Return the permissions of an agent's first role."""
    entities = [entity["entityName"] for entity in manifest.get("dataContract") or ()]
    return [
        *(
            f"app:{app_id}:{entity}.{action}"
            for entity in entities
            for action in ("create", "read", "update", "delete")
        ),
        f"app:{app_id}:invoke",
        *(f"app:{app_id}:action:{action['id']}" for action in manifest.get("actions") or ()),
        *(f"tool:{name}" for name in registry.NAMES),
    ]


def agent_config(
    session: Session, app_id: str, archive: BinaryIO | None = None
) -> JSONObject | None:
    """Return ``agent_config`` of a process's handshake; None for an app without an agent.

    Args:
        session: an open transaction.
        app_id: the app.
        archive: a deployment that is not current yet and may bring another definition.
    """
    found = repository.agent(session, app_id)
    config = None if found is None else found.config
    if archive is not None:
        new = definitions.parse(_reader(archive))
        config = config if new is None else new.config
    if config is None:
        return None
    actor = rbac_service.load_actor(session, agent_user_id(app_id))
    known = [*registry.BUILT_IN.values(), *mcp_tools.load(session, _not_here).values()]
    tools = [tool.spec() for tool in known if actor is None or actor.can(tool.key)]
    return {
        "tool_descriptors": [
            {"name": t.name, "description": t.description, "inputSchema": t.input_schema}
            for t in tools
        ],
        "max_turns": config["limits"]["maxTurns"],
    }


def _not_here(server: str, _tool: str, _arguments: JSONObject) -> str:
    raise Failed(f"MCP server '{server}' is not called from here")


def _has_role(uow: UnitOfWork, app_id: str) -> bool:
    return bool(rbac_service.authority_of(uow.session, agent_user_id(app_id)).roles)


def _reader(archive: BinaryIO) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        archive.seek(0)
        return inspect_archive(archive, keep=lambda name: name == path).kept.get(path)

    return read


def seed_assistant(uow: UnitOfWork) -> None:
    """Install the built-in agent on the first boot of an empty database.

    Idempotent: later boots find users or apps and do nothing, so it stays deleted once deleted.
    """
    if apps_service.list_apps(uow.session) or auth_service.list_humans(uow.session):
        return
    manifest = {
        "appId": ASSISTANT,
        "name": "Assistant",
        "version": "1.0.0",
        "type": "agent",
        "description": "Answers questions about your apps and works in them for you",
        "dataContract": [],
    }
    apps_service.install(uow, PLATFORM_ITSELF, manifest)
    found = Definition(
        name="Assistant",
        description="Answers questions about your apps and works in them for you",
        config={
            "systemPrompt": ASSISTANT_PROMPT,
            "memory": {"enabled": True},
            "limits": {"maxTurns": 50, "maxContextTokens": 100_000, "keepRecentMessages": 10},
            "supervision": {"mode": "autonomous", "policies": []},
        },
        prompt=ASSISTANT_PROMPT,
    )
    register(uow, ASSISTANT, found, owner_id=None)


# --- removal ---------------------------------------------------------------------------------


def forget_app(uow: UnitOfWork, event: AppUninstalled) -> None:
    """Remove the agent of an app that is being uninstalled.

    Runs just vanish: their workers notice at the next step, and the queue messages behind them
    go with the app.
    """
    delegations.revoke(uow.session, delegatee_id=agent_user_id(event.app_id))
    repository.delete_agent(uow.session, event.app_id)


def remove(platform: Platform, uow: UnitOfWork, app_id: str) -> None:
    """Remove an agent with its sessions and everything in them; its identity and role stay."""
    for run_id in run_rows.runs_of_app(uow.session, app_id):
        row = run_rows.run(uow.session, run_id, lock=True)
        if row is not None and row.state not in runs.ENDED:
            runs.end(platform, uow, row, "cancelled", error=runs.CANCELLED)
    delegations.revoke(uow.session, delegatee_id=agent_user_id(app_id))
    # Everything below the agent goes by cascade, also what was written right above.
    uow.session.flush()
    repository.delete_agent(uow.session, app_id)
    apps_service.mark_agent(uow, app_id, registered=False)
    log.info("agent_removed", app_id=app_id)


# --- delegations -----------------------------------------------------------------------------


def delegate(
    uow: UnitOfWork, *, delegator_id: UUID, app_id: str, trigger_type: str, trigger_id: str
) -> None:
    """Let a trigger run an app's agent in a user's name.

    Args:
        uow: the unit of work.
        delegator_id: the user.
        app_id: whose agent.
        trigger_type: cron, hook, webhook, manual or channel.
        trigger_id: which one; its earlier delegation for this agent ends.
    """
    delegations.delegate(
        uow.session,
        delegator_id=delegator_id,
        delegatee_id=agent_user_id(app_id),
        trigger_type=trigger_type,
        trigger_id=trigger_id,
    )


def revoke(uow: UnitOfWork, *, trigger_type: str, trigger_id: str) -> None:
    """End what a trigger was allowed. Idempotent."""
    delegations.revoke(uow.session, trigger_type=trigger_type, trigger_id=trigger_id)


def cron_created(uow: UnitOfWork, event: CronCreated) -> None:
    """Let a new cron run the app's agent, should the app have one or get one."""
    delegate(
        uow,
        delegator_id=event.owner,
        app_id=event.app_id,
        trigger_type="cron",
        trigger_id=str(event.cron_id),
    )


def cron_deleted(uow: UnitOfWork, event: CronDeleted) -> None:
    """End what a cron was allowed."""
    revoke(uow, trigger_type="cron", trigger_id=str(event.cron_id))


def _delegate_existing_crons(uow: UnitOfWork, app_id: str) -> None:
    for cron in crons_service.list_of_app(uow.session, PLATFORM_ITSELF, app_id=app_id):
        if cron.created_by is not None:
            delegate(
                uow,
                delegator_id=cron.created_by,
                app_id=app_id,
                trigger_type="cron",
                trigger_id=str(cron.id),
            )


# --- runs nobody asked for in person ---------------------------------------------------------


def start_autonomous(
    uow: UnitOfWork,
    *,
    owner_id: UUID | None,
    app_id: str,
    message: str,
    source: str,
    trigger_id: str,
    job: JSONObject | None = None,
) -> UUID:
    """Start a run for a cron, hook or webhook; return its id.

    Args:
        uow: the unit of work; the run is sent to a worker after its commit.
        owner_id: the trigger's owner; None = it has none any more.
        app_id: whose agent.
        message: what the agent is told.
        source: cron, hook or webhook.
        trigger_id: which one.
        job: ``{"msg_id": n}`` of the queue message to settle when the run ends.

    Raises:
        NotFound: the app has no agent.
        Forbidden: the text is the refusal's reason.
        NotReady: no model is registered.
    """
    agent = repository.agent(uow.session, app_id)
    if agent is None:
        raise NotFound("app has no agent")
    invoker_id = may_run(
        uow, owner_id=owner_id, app_id=app_id, trigger_type=source, trigger_id=trigger_id
    )
    return _start(uow, agent, invoker_id=invoker_id, message=message, source=source, job=job)


def may_run(
    uow: UnitOfWork, *, owner_id: UUID | None, app_id: str, trigger_type: str, trigger_id: str
) -> UUID:
    """Return the user in whose name a trigger may run an agent.

    Raises:
        Forbidden: the text is the refusal's reason.
    """
    if owner_id is None:
        raise Forbidden("no owner")
    owner = rbac_service.load_actor(uow.session, owner_id)
    if owner is None:
        raise Forbidden("owner disabled")
    valid = delegations.delegated(
        uow.session,
        delegator_id=owner_id,
        delegatee_id=agent_user_id(app_id),
        trigger_type=trigger_type,
        trigger_id=trigger_id,
    )
    if not valid:
        raise Forbidden("no valid delegation")
    key = f"app:{app_id}:invoke"
    if not owner.can(key):
        raise missing_permission(key)
    return owner_id


def _start(
    uow: UnitOfWork,
    agent: Agent,
    *,
    invoker_id: UUID,
    message: str,
    source: str,
    job: JSONObject | None,
) -> UUID:
    opened = requests.open_run(
        uow,
        agent,
        invoker_id=invoker_id,
        message=message[: requests.MAX_MESSAGE],
        source=source,
        job=job,
    )
    uow.send_after_commit(RunAgent(str(opened.run_id)))
    return opened.run_id


def exists(uow: UnitOfWork, app_id: str) -> bool:
    """Tell whether an app has an agent."""
    return repository.agent(uow.session, app_id) is not None
