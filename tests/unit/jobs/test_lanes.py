from datetime import UTC, datetime
from uuid import uuid4

from app.core.actor import Actor
from app.jobs.delivery import Assignment
from app.jobs.lanes import AHEAD_MOST, Lanes
from app.pgqueue.types import Delivery


def assignment(msg_id):
    return Assignment(Delivery(msg_id, 1, datetime.now(UTC), 0, {}), Actor(user_id=uuid4()))


def lane_of(lanes, app_id="crm"):
    return next(lane for lane in lanes if lane.app_id == app_id)


def fill(lanes, lane, count, first=0):
    lane.ahead.extend((assignment(n), 0.0) for n in range(first, first + count))
    handed = []
    while (found := lanes.next_to_hand_out(100.0)) is not None:
        handed.append(found[1].delivery.receipt)
    return handed


def test_apps_stand_in_a_row_once_each():
    lanes = Lanes(8)
    for app_id in ("a", "b", "a", "c"):
        lanes.add_turn(app_id, 1.0)
    assert [lane.app_id for lane in lanes.next_ready(2)] == ["a", "b"]
    assert [lane.app_id for lane in lanes.next_ready(2)] == ["c"]
    assert not lanes.waiting
    assert lanes.take_tokens() == {"a": 2, "b": 1, "c": 1}
    assert lanes.take_tokens() == {}


def test_no_more_jobs_are_handed_out_than_there_are_slots():
    lanes = Lanes(2)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    assert len(fill(lanes, lane, 5)) == 2
    assert (len(lane.ahead), lanes.in_flight) == (3, 5)
    lanes.end(lane, next(iter(lane.in_flight)))
    assert lanes.next_to_hand_out(1.0) is not None


def test_long_jobs_are_claimed_one_for_one():
    lanes = Lanes(8)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    assert lanes.room(lane) == 8
    lane.note_duration(10.0)
    handed = fill(lanes, lane, 8)
    assert lanes.room(lane) == 0
    lanes.end(lane, handed[0])
    assert lanes.room(lane) == 1


def test_short_jobs_are_claimed_ahead_in_bulk():
    lanes = Lanes(8)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    lane.note_duration(0.001)
    assert lanes.room(lane) == 8 + AHEAD_MOST
    fill(lanes, lane, 8 + AHEAD_MOST)
    assert lanes.room(lane) == 0
    for receipt in list(lane.in_flight):
        lanes.end(lane, receipt)
    assert lanes.room(lane) == 0, "waits for more room"


def test_jobs_of_middling_length_never_wait_long_for_a_slot():
    lanes = Lanes(8)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    lane.note_duration(0.1)
    assert lanes.room(lane) == 8 + 4


def test_a_free_slot_wakes_a_lane_with_more_to_do():
    lanes = Lanes(1)
    lanes.add_turn("crm", 1.0)
    (lane,) = lanes.next_ready(1)
    (receipt,) = fill(lanes, lane, 1)
    lanes.end(lane, receipt)
    assert not lanes.waiting
    (receipt,) = fill(lanes, lane, 1, first=5)
    lane.more = True
    lanes.end(lane, receipt)
    assert lanes.next_ready(1) == [lane]
    lanes.end(lane, receipt)
    assert not lanes.waiting, "a slot is freed once"


def test_what_waits_too_long_is_taken_away():
    lanes = Lanes(1)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    lane.ahead.extend([(assignment(1), 10.0), (assignment(2), 11.0)])
    assert [a.delivery.msg_id for a in lanes.take_stale(10.5)] == [1]
    assert len(lane.ahead) == 1


def test_overdue_deliveries():
    lanes = Lanes(8)
    lanes.add_turn("crm", 1.0)
    lane = lane_of(lanes)
    fill(lanes, lane, 1)
    assert lanes.overdue(99.0) == []
    assert [receipt.msg_id for _, receipt in lanes.overdue(100.0)] == [0]


def test_idle_lanes_are_forgotten():
    lanes = Lanes(8)
    lanes.add_turn("crm", 1.0)
    (lane,) = lanes.next_ready(1)
    lanes.drop_idle([lane])
    assert list(lanes) == [lane], "it holds a turn"
    lanes.take_tokens([lane])
    lanes.drop_idle([lane])
    assert list(lanes) == []
