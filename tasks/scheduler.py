"""Beat: ``celery -A tasks.celery_app:celery beat -S tasks.scheduler:PostgresScheduler``.

Crons come from Postgres, not from Celery's schedule. Several beats may run; one leads. The main
thread only writes ticks; whatever talks to the broker runs on a thread of its own, so that a dead
broker delays nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery.beat import Scheduler

from app.core.messaging import Message
from app.core.platform import Platform
from app.crons.leader import Leader
from app.crons.messages import FireCrons
from tasks import base, maintenance

log = structlog.get_logger(__name__)


class PostgresScheduler(Scheduler):
    """Drives the leader from Celery's beat loop."""

    def setup_schedule(self) -> None:
        """Prepare to lead; Celery's own entries are not used."""
        platform = base.platform_of(self.app)
        self._outbox = Outbox(platform)
        self._leader = Leader(
            platform.engine,
            retry_s=platform.settings.jobs.leader_retry.total_seconds(),
            fire=self._fire,
        )
        self._upkeep = Upkeep(platform, self._outbox, leads=lambda: self._leader.leading)
        self._outbox.start()
        self._upkeep.start()

    def tick(self, *_args: Any, **_kwargs: Any) -> float:  # Any: Celery's signature
        """Do one step of the leader, which waits by itself; 0 = call again at once."""
        self._leader.step()
        return 0.0

    def should_sync(self) -> bool:
        """Tell that nothing is kept in a file."""
        return False

    def close(self) -> None:
        """Give up leadership."""
        self._upkeep.stop()
        self._outbox.stop()
        self._leader.resign()

    @property
    def info(self) -> str:
        """Text of beat's banner."""
        return "    . crons -> Postgres, one leader"

    def _fire(self, shard: int) -> None:
        self._outbox.put(FireCrons(shard))


class Outbox:
    """Publishes on a thread of its own; equal messages that wait are published once."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._waiting: dict[Message, None] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(3)

    def put(self, message: Message) -> None:
        """Publish a message soon. Returns at once."""
        with self._changed:
            self._waiting[message] = None
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                messages, self._waiting = list(self._waiting), {}
            if not messages:
                return
            try:
                self._platform.publisher.publish(messages)
            except Exception:
                log.exception("outbox_failed")


class Upkeep:
    """Periodic duties of the leading beat, each on its own interval, one after the other."""

    def __init__(self, platform: Platform, outbox: Outbox, *, leads: Callable[[], bool]) -> None:
        self._leads = leads
        self._stopping = threading.Event()
        self._duties = [
            Duty(interval_s, work) for interval_s, work in maintenance.duties(platform, outbox.put)
        ]
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the duty that runs."""
        self._stopping.set()
        self._thread.join(3)

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            if self._leads():
                for duty in self._duties:
                    duty.do_if_due(now)
            until = min(duty.due_at for duty in self._duties)
            self._stopping.wait(min(0.5, max(0.02, until - time.monotonic())))


class Duty:
    """One piece of upkeep; a failure is logged and tried again at the next turn."""

    def __init__(self, interval_s: float, work: Callable[[], None]) -> None:
        self.due_at = time.monotonic()
        self._interval_s = interval_s
        self._work = work

    def do_if_due(self, now: float) -> None:
        """Work if it is time."""
        if now < self.due_at:
            return
        self.due_at = now + self._interval_s
        try:
            self._work()
        except Exception:
            log.exception("upkeep_failed", duty=self._work.__name__)
