"""dramatiq with its Redis broker: two processes of eight threads."""

import os
import sys

import dramatiq
import protocol
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=protocol.URL))


@dramatiq.actor
def note(number):
    protocol.note(number)


def work():
    options = ["dramatiq", "dramatiq_peer", "--processes", "2", "--threads", "8"]
    os.execv(sys.executable, [sys.executable, "-m", *options])


if __name__ == "__main__":
    protocol.main(setup=lambda: None, work=work, send=note.send)
