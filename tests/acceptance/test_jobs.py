"""Jobs and crons from the API to a handler, on real processes."""

import time

import pytest

from tests.support.stack import wait_until

WORKER = '''
import time
from trellis_worker import serve

SEEN = []


def on_job(ctx, payload):
    SEEN.append([ctx.job.id, payload])
    if payload.get("raise"):
        raise RuntimeError(payload["raise"])
    if payload.get("sleep"):
        time.sleep(payload["sleep"])


def seen(ctx, params):
    return SEEN


serve(rpc={"seen": seen}, on_job=on_job)
'''


def test_a_job_runs_and_is_archived(shared_platform):
    shared_platform.install("jobs_run", WORKER)
    msg_id = shared_platform.enqueue("jobs_run", {"n": 1})
    shared_platform.wait_archived("jobs_run", {msg_id})
