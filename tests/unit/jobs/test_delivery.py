from datetime import UTC, datetime
from uuid import uuid4

import pytest

from app.core.actor import Actor
from app.jobs.delivery import Assignment, judge, storable
from app.pgqueue.types import Delivery, Failure, Receipt, Release
from app.workers.service import CallOutcome, OutcomeKind


def delivery(*, attempts=0, max_attempts=1, cron_id=None):
    body = {"payload": {"a": 1}, "source": "api", "cron_id": cron_id, "max_attempts": max_attempts}
    return Delivery(42, 2, datetime(2025, 3, 1, 8, tzinfo=UTC), attempts, body)


def failed(kind, error="boom"):
    return CallOutcome(ok=False, error=error, kind=kind)


RECEIPT = Receipt(42, 2)


def test_the_message_to_the_process():
    cron_id = uuid4()
    message = Assignment(delivery(cron_id=cron_id), Actor(user_id=uuid4())).message()
    assert message == {
        "id": "42",
        "payload": {"a": 1},
        "meta": {
            "read_ct": 2,
            "enqueued_at": "2025-03-01T08:00:00Z",
            "source": "api",
            "cron_id": str(cron_id),
        },
    }
    assert "cron_id" not in Assignment(delivery(), Actor(user_id=uuid4())).message()["meta"]


def test_a_result_archives():
    assert judge(delivery(), CallOutcome(ok=True, value={"any": "thing"})) == RECEIPT


@pytest.mark.parametrize("kind", [OutcomeKind.HANDLER_ERROR, OutcomeKind.TOO_LARGE])
def test_a_handler_error_is_final_by_default(kind):
    assert judge(delivery(), failed(kind)) == Failure(RECEIPT, "handler error: boom", "boom")


@pytest.mark.parametrize(("attempts", "delay_s"), [(0, 10), (1, 20), (2, 40), (9, 3600)])
def test_attempts_left_make_it_wait_longer_each_time(attempts, delay_s):
    outcome = failed(OutcomeKind.HANDLER_ERROR)
    found = judge(delivery(attempts=attempts, max_attempts=20), outcome, jitter=lambda: 0.5)
    assert found == Release(RECEIPT, delay_s=delay_s, error="boom")


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 9), (1.0, 11)])
def test_the_wait_varies_by_a_tenth(jitter, delay_s):
    found = judge(
        delivery(max_attempts=2), failed(OutcomeKind.HANDLER_ERROR), jitter=lambda: jitter
    )
    assert found.delay_s == pytest.approx(delay_s)


def test_the_last_attempt_is_final():
    found = judge(delivery(attempts=2, max_attempts=3), failed(OutcomeKind.HANDLER_ERROR))
    assert isinstance(found, Failure)


@pytest.mark.parametrize(
    "kind", [OutcomeKind.CRASHED, OutcomeKind.TIMEOUT, OutcomeKind.UNRESPONSIVE, OutcomeKind.ERROR]
)
def test_no_answer_leaves_it_to_the_visibility_timeout(kind):
    assert judge(delivery(), failed(kind)) is None


@pytest.mark.parametrize("kind", [OutcomeKind.STOPPED, OutcomeKind.ENDED])
def test_an_orderly_stop_makes_it_visible_at_once(kind):
    assert judge(delivery(), failed(kind)) == Release(RECEIPT)


@pytest.mark.parametrize(
    "kind",
    [
        OutcomeKind.CAPACITY,
        OutcomeKind.NOT_READY,
        OutcomeKind.NOT_RUNNING,
        OutcomeKind.START_FAILED,
    ],
)
def test_a_job_that_reached_nobody_is_not_counted(kind):
    found = judge(delivery(), failed(kind))
    assert (found.uncount, found.error) == (True, None)
    assert found.delay_s > 0


def test_the_sdk_may_ask_for_a_retry_or_reject():
    ask = CallOutcome(ok=True, value={"$job": {"retry": 30}})
    found = judge(delivery(), ask)
    assert (found.delay_s, found.uncount) == (30, False)
    assert judge(
        delivery(), CallOutcome(ok=True, value={"$job": {"reject": "bad\0input"}})
    ) == Failure(RECEIPT, "bad\ufffdinput", "bad\ufffdinput")
    for plain in (
        {"$job": {"retry": 1}, "x": 1},
        {"$job": 1},
        {"$job": {}},
        [{"$job": {"retry": 1}}],
    ):
        assert judge(delivery(), CallOutcome(ok=True, value=plain)) == RECEIPT


def test_storable_text():
    assert storable("a\0b\ud800") == "a\ufffdb?"
