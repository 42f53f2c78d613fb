"""Entry of the web process: settings, platform, Flask app."""

from __future__ import annotations

import os

from app.bootstrap import bootstrap
from app.core.messaging import CeleryPublisher, make_celery
from app.factory import create_app
from config.logging import configure_logging
from config.settings import AppEnv, load_settings

settings = load_settings(os.environ)  # noqa: TID251 - this is the composition root
configure_logging("web", json=settings.env is AppEnv.PRODUCTION, level=settings.logging.level)
app = create_app(bootstrap(settings, CeleryPublisher(make_celery(settings)), process="web"))
