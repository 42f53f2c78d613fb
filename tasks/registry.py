"""Every module that declares tasks, in one place."""

from __future__ import annotations

from celery import Celery

from tasks import agents, auth, base, crons, jobs, maintenance, mcp, rpc, workers

MODULES = (agents, auth, crons, jobs, maintenance, mcp, rpc, workers)
"""Importing a module declares its tasks."""


def register_tasks(celery: Celery) -> None:
    """Register every task of the platform on a Celery app."""
    base.register_all(celery)
