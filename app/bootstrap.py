"""The composition root shared by web processes and Celery workers."""

from __future__ import annotations

from functools import partial

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.agents import service as agents_service
from app.agents.events import AgentRegistered, ApprovalRequested, RunEnded
from app.apps.events import AppInstalled, AppUninstalled
from app.auth.events import (
    RolesConferred,
    RolesOffered,
    UserCreated,
    UserDeleted,
    UserDeleting,
)
from app.auth.oidc import providers as oidc_providers
from app.channels import replies as channels_replies
from app.channels import service as channels_service
from app.core.crypto import Cipher
from app.core.db import make_engine
from app.core.events import Subscriptions
from app.core.locks import AdvisoryLock, lock
from app.core.messaging import Publisher
from app.core.platform import Platform
from app.core.replies import Replies
from app.core.uow import UnitOfWorkFactory
from app.crons import service as crons_service
from app.crons.events import CronCreated, CronDeleted
from app.data.events import WatchedRecordsChanged
from app.hooks import service as hooks_service
from app.hooks import webhooks
from app.integrations import service as integrations_service
from app.integrations.events import OwnWebhookNeeded
from app.jobs import service as jobs_service
from app.jobs.turns import TurnPublisher, Turns
from app.rbac import service as rbac_service
from app.rbac import subscribers as rbac_subscribers
from app.secrets import service as secrets_service
from app.secrets.events import PlatformSecretChanged
from app.workers import service as workers_service
from app.workers.events import DeploymentActivated, DeploymentReceived
from app.workers.icons import keep_icon
from config.settings import Settings


def bootstrap(settings: Settings, publisher: Publisher, *, process: str) -> Platform:
    """Build the long-lived parts of one process.

    Args:
        settings: the process's settings.
        publisher: hands messages to the broker after a commit.
        process: `web`, `worker` or `beat`; names the connections in Postgres.
    """
    engine = make_engine(settings.database, application_name=f"trellis-{process}")
    redis = make_redis(settings)
    turns = Turns(redis, per_app=settings.jobs.turns_per_app)
    publisher = TurnPublisher(publisher, turns)
    cipher = Cipher(settings.auth.master_key, settings.auth.previous_master_keys)
    return Platform(
        settings=settings,
        engine=engine,
        uow=UnitOfWorkFactory(engine, publisher, subscriptions(cipher)),
        publisher=publisher,
        redis=redis,
        cipher=cipher,
        replies=Replies(settings.redis.url, settings.redis.timeout.total_seconds()),
    )


def first_boot(platform: Platform) -> None:
    """Put in place what an installation starts with: roles, keys, a provider, the assistant.

    Idempotent, and safe in several processes at once; every web process does it at its start.
    """
    with platform.uow() as uow:
        lock(uow.session, AdvisoryLock.FIRST_BOOT)
        rbac_service.ensure_builtin(uow)
        oidc_providers.ensure_default(uow, platform.cipher, platform.settings.oidc)
        agents_service.seed_assistant(uow)


def subscriptions(cipher: Cipher) -> Subscriptions:
    """List every subscriber of every domain event."""
    listed = Subscriptions()
    listed.add(UserCreated, rbac_subscribers.give_first_role)
    listed.add(UserDeleting, rbac_subscribers.before_user_goes)
    listed.add(RolesOffered, rbac_subscribers.check_offer)
    listed.add(RolesConferred, rbac_subscribers.confer)
    listed.add(UserDeleted, workers_service.end_calls_of_user)
    listed.add(AppUninstalled, workers_service.forget_app)
    listed.add(AppUninstalled, secrets_service.forget_app)
    listed.add(AppInstalled, crons_service.sync_manifest)
    listed.add(AppUninstalled, crons_service.forget_app)
    listed.add(AppUninstalled, jobs_service.forget_app)
    listed.add(AppInstalled, hooks_service.sync_trigger)
    listed.add(AppUninstalled, hooks_service.forget_app)
    listed.add(AppInstalled, partial(webhooks.sync_manifest, cipher))
    listed.add(AppUninstalled, webhooks.forget_app)
    listed.add(WatchedRecordsChanged, hooks_service.wake)
    listed.add(PlatformSecretChanged, workers_service.restart_for_secret)
    listed.add(DeploymentReceived, agents_service.check_deployment)
    listed.add(DeploymentActivated, agents_service.register_deployment)
    listed.add(DeploymentActivated, keep_icon)
    listed.add(AppUninstalled, agents_service.forget_app)
    listed.add(CronCreated, agents_service.cron_created)
    listed.add(CronDeleted, agents_service.cron_deleted)
    listed.add(AgentRegistered, hooks_service.delegate_again)
    listed.add(AppUninstalled, integrations_service.forget_app)
    listed.add(UserDeleting, integrations_service.forget_user)
    listed.add(AgentRegistered, webhooks.delegate_again)
    listed.add(OwnWebhookNeeded, webhooks.keep_own)
    listed.add(AgentRegistered, channels_service.delegate_again)
    listed.add(RunEnded, channels_replies.run_ended)
    listed.add(ApprovalRequested, channels_replies.approval_requested)
    return listed


def make_redis(settings: Settings) -> Redis:
    """Return a text client that fails fast."""
    timeout_s = settings.redis.timeout.total_seconds()
    return Redis.from_url(
        settings.redis.url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=15,
        # redis-py would back off for seconds; one fresh connection is worth a try, no more.
        retry=Retry(NoBackoff(), 1),
    )
