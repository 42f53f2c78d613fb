"""pytest-celery's node classes over our own processes instead of Docker containers."""

from __future__ import annotations

import signal
from typing import Any

from pytest_celery import CeleryTestBroker, CeleryTestWorker, RedisTestBackend

from app.embedded.redis import EmbeddedRedis
from tests.support.stack import Stack, wait_until


class RedisServer:
    """Looks like pytest-celery's container of a broker; is our embedded Valkey."""

    def __init__(self, redis: EmbeddedRedis) -> None:
        self.redis = redis
        self.name = "embedded-valkey"
        self.id = self.name

    @property
    def status(self) -> str:
        return "running" if self.redis.alive() else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self.redis.url, "host_url": self.redis.url}

    def ready(self) -> bool:
        return self.redis.alive()

    def logs(self) -> str:
        return self.redis.log_file.read_text(errors="replace")

    def kill(self, signal: str = "SIGKILL") -> None:
        self.redis.kill() if signal == "SIGKILL" else self.redis.stop()

    def restart(self, **_: Any) -> None:
        self.redis.start()

    def reload(self) -> None:
        """Do nothing: the state is read from the process itself."""

    def teardown(self) -> None:
        self.redis.stop()


class WorkerProcess:
    """Looks like pytest-celery's container of a worker; is the Procfile's worker."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack = stack
        self.name = name
        self.id = name

    @property
    def status(self) -> str:
        return "running" if self.stack.runs(self.name) else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        url = self.stack.env["REDIS_URL"]
        return {"url": url, "host_url": url}

    def worker_name(self) -> str:
        return self.name

    def worker_queue(self) -> str:
        return "maintenance"

    def ready(self) -> bool:
        wait_until(lambda: " ready." in self.logs(), timeout=30, what="the worker")
        return True

    def logs(self) -> str:
        return self.stack.log(self.name)

    def kill(self, signal: str = "SIGKILL") -> None:
        self.stack.kill(self.name, getattr(globals()["signal"], signal))

    def restart(self, **_: Any) -> None:
        self.stack.start(self.name, "worker")

    def reload(self) -> None:
        """Do nothing: the state is read from the process itself."""

    def teardown(self) -> None:
        if self.status == "running":
            self.stack.kill(self.name, signal.SIGTERM)


class BrokerNode(CeleryTestBroker):
    """Our Valkey as pytest-celery sees a broker."""


class BackendNode(RedisTestBackend):
    """The same Valkey in the part of a result backend."""


class WorkerNode(CeleryTestWorker):
    """Our worker process as pytest-celery sees a worker."""
