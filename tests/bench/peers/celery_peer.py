"""Celery as it comes, on Redis: 16 threads, or its beat with many crons; runs in our environment.

``celery_peer.py beat COUNT`` notes when each of COUNT crons of every minute was sent.
"""

import os
import sys

import protocol
from celery import Celery, signals
from celery.schedules import crontab

celery = Celery("celery_peer", broker=protocol.URL)
celery.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)


@celery.task(name="note")
def note(number):
    protocol.note(number)


def work():
    options = ["worker", "--pool", "threads", "--concurrency", "16", "--loglevel", "ERROR"]
    celery.worker_main([*options, "--without-gossip", "--without-mingle"])


def beat(count):
    celery.conf.beat_schedule = {
        f"c{number}": {"task": "note", "schedule": crontab(), "args": (number,)}
        for number in range(count)
    }
    signals.after_task_publish.connect(_sent)
    celery.Beat(schedule=f"{os.environ['PEER_NOTES']}.beat", loglevel="ERROR", quiet=True).run()


def _sent(body, **_):
    protocol.note(body[0][0])


if __name__ == "__main__":
    if sys.argv[1] == "beat":
        beat(int(sys.argv[2]))
    else:
        protocol.main(setup=lambda: None, work=work, send=note.delay)
