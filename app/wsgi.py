"""Entry of the web process: settings, platform, Flask app."""

from __future__ import annotations

import os

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.bootstrap import bootstrap, first_boot
from app.core.messaging import CeleryPublisher, make_celery
from app.factory import create_app
from config.logging import configure_logging
from config.settings import AppEnv, load_settings

settings = load_settings(os.environ)  # noqa: TID251 - this is the composition root
configure_logging("web", json=settings.env is AppEnv.PRODUCTION, level=settings.logging.level)
platform = bootstrap(settings, CeleryPublisher(make_celery(settings)), process="web")
try:
    first_boot(platform)
except SQLAlchemyError as exc:
    # The process serves /health and 503 until the database is there; the next start seeds it.
    structlog.get_logger(__name__).warning("first_boot_postponed", reason=type(exc).__name__)
app = create_app(platform)
# Gunicorn loads this module once and forks: connections made before the fork stay the parent's.
os.register_at_fork(after_in_child=lambda: platform.engine.dispose(close=False))
