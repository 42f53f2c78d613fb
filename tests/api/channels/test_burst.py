"""Many people write at once (contract part 40, section 7.5: one queue per sender and chat)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import select

from app.agents import run_repository, runs
from app.agents.models import AgentRun
from app.channels import linking, repository
from app.core.platform import Platform
from tests.fakes.model_server import ModelServer
from tests.fakes.telegram import FakeTelegram
from tests.support.api import ApiClient
from tests.support.channels import Bot, ChannelWorker

SENDERS = range(100, 120)
EACH = 10


@contextmanager
def many_workers(platform: Platform, count: int) -> Iterator[None]:
    """Work on everything that is due on several threads, each of which sees all of it."""
    stop = threading.Event()

    def work() -> None:
        worker = ChannelWorker(platform, typing=False)
        while not stop.is_set():
            worker.step()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def end_runs(platform: Platform) -> None:
    """End every queued run with its own question, as its worker would."""
    with platform.uow() as uow:
        query = select(AgentRun.id).where(AgentRun.state == "queued")
        for run_id in list(uow.session.scalars(query)):
            row = run_repository.run(uow.session, run_id, lock=True)
            assert row is not None
            response = row.config["message"]
            runs.end(platform, uow, row, "completed", response=response)


def test_a_burst_keeps_the_order_of_each_sender(
    platform: Platform, admin: ApiClient, bot: Bot, telegram: FakeTelegram, model: ModelServer
) -> None:
    with platform.uow() as uow:
        channel = repository.channel(uow.session, UUID(bot.id))
        assert channel is not None
        for sender in map(str, SENDERS):
            linking.link(uow, channel, chat=sender, sender=sender, user_id=UUID(str(admin.user_id)))

    def write(sender: int) -> None:
        for number in range(EACH):
            update = bot.tell(f"{sender}-{number}", sender=sender)
            if number == 0:
                bot.post(update)

    with many_workers(platform, 2):
        threads = [threading.Thread(target=write, args=(sender,)) for sender in SENDERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end = time.monotonic() + 120
        while len(telegram.sent()) < len(SENDERS) * EACH and time.monotonic() < end:
            end_runs(platform)
            time.sleep(0.1)
    for sender in SENDERS:
        assert telegram.texts(sender) == [f"{sender}-{n}" for n in range(EACH)]
    assert len(admin.get("/apps/stock/agent/sessions").json) == len(SENDERS)
