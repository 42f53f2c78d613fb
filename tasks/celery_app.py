"""The Celery app of workers and beat, made of the process's settings."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any

from celery import signals

# Nothing made while loading is garbage; looking for it takes an eighth of the time.
gc.disable()

from config.garbage import settle  # noqa: E402 - after the above, as everything that is large
from config.logging import configure_logging  # noqa: E402
from config.settings import AppEnv, load_settings  # noqa: E402
from tasks.assembly import build  # noqa: E402


def _process() -> str:
    return "beat" if "beat" in sys.argv else "worker"


@signals.setup_logging.connect
def _configure_logging(**_kwargs: Any) -> None:  # Any: Celery's signal arguments
    configure_logging(
        _process(), json=_settings.env is AppEnv.PRODUCTION, level=_settings.logging.level
    )
    # Two lines per task, which is two lines per RPC; failures are logged above this level.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


_settings = load_settings(os.environ)  # noqa: TID251 - this is the composition root
celery = build(_settings, process=_process())
settle()
