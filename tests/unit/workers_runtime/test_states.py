"""The life cycle of a slot: every state against every event, and whole histories on a fake clock."""

from __future__ import annotations

import random

import pytest

from workers_runtime import states
from workers_runtime.protocol import AppStatus
from workers_runtime.states import (
    CancelRestart,
    Exited,
    Failed,
    Log,
    Ready,
    Refuse,
    RestartAfter,
    RestartDue,
    Shutdown,
    Slot,
    Spawn,
    Start,
    StopAsked,
    step,
)

STOPPED = Slot()
SPAWNING = Slot(status=AppStatus.STARTING, alive=True)
WAITING = Slot(
    status=AppStatus.STARTING, restarts=2, crashes=(90.0, 95.0), last_crash_at=95.0, last_error="x"
)
RUNNING = Slot(status=AppStatus.RUNNING, alive=True, running_since=50.0)
STOPPING = Slot(status=AppStatus.STOPPING, alive=True, running_since=50.0)
CRASHED = Slot(
    status=AppStatus.CRASHED, crashes=(70.0, 80.0), last_crash_at=80.0, last_error="x", restarts=4
)
NOW = 100.0
EXIT = Exited("exit code 1", "worker crashed (exit 1)")
CRASH_LINE = Log("worker crashed (exit 1)")

TABLE = [
    # state, event, status after, actions
    (STOPPED, Start(), "starting", [Spawn()]),
    (STOPPED, Start(clear=True), "starting", [Spawn()]),
    (STOPPED, Ready(), "stopped", []),
    (STOPPED, EXIT, "stopped", []),
    (STOPPED, RestartDue(), "stopped", []),
    (STOPPED, StopAsked(), "stopped", []),
    (SPAWNING, Start(), "starting", []),
    (SPAWNING, Start(clear=True), "starting", []),
    (SPAWNING, Ready(), "running", [Log("worker started")]),
    (SPAWNING, EXIT, "starting", [CRASH_LINE, RestartAfter(0.0)]),
    (SPAWNING, RestartDue(), "starting", []),
    (SPAWNING, StopAsked(), "stopping", [Shutdown()]),
    (WAITING, Start(), "starting", []),
    (WAITING, Start(clear=True), "starting", [CancelRestart(), Spawn()]),
    (WAITING, Ready(), "starting", []),
    (WAITING, EXIT, "starting", []),
    (WAITING, RestartDue(), "starting", [Log("restarting worker (attempt 2)"), Spawn()]),
    (WAITING, StopAsked(), "stopped", [CancelRestart()]),
    (RUNNING, Start(), "running", []),
    (RUNNING, Start(clear=True), "running", []),
    (RUNNING, Ready(), "running", []),
    (RUNNING, EXIT, "starting", [CRASH_LINE, RestartAfter(0.0)]),
    (RUNNING, RestartDue(), "running", []),
    (RUNNING, StopAsked(), "stopping", [Shutdown()]),
    (STOPPING, Start(), "stopping", []),
    (STOPPING, Start(clear=True), "stopping", []),
    (STOPPING, Ready(), "stopping", []),
    (STOPPING, EXIT, "stopped", [Log("worker stopped")]),
    (STOPPING, RestartDue(), "stopping", []),
    (STOPPING, StopAsked(), "stopping", []),
    (CRASHED, Start(), "crashed", [Refuse()]),
    (CRASHED, Start(clear=True), "starting", [Spawn()]),
    (CRASHED, Ready(), "crashed", []),
    (CRASHED, EXIT, "crashed", []),
    (CRASHED, RestartDue(), "crashed", []),
    (CRASHED, StopAsked(), "stopped", []),
]


@pytest.mark.parametrize(("slot", "event", "status", "actions"), TABLE)
def test_table(slot, event, status, actions) -> None:
    after, done = step(slot, event, NOW)
    assert (after.status, done) == (status, actions)


def test_table_is_complete() -> None:
    assert len(TABLE) == 6 * 6


def crash(slot: Slot, now: float) -> tuple[Slot, list[states.Action]]:
    return step(slot, EXIT, now)


def restarted(slot: Slot, now: float) -> Slot:
    slot, actions = step(slot, RestartDue(), now)
    assert Spawn() in actions
    slot, _ = step(slot, Ready(), now)
    return slot


def delay(actions: list[states.Action]) -> float:
    return next(a.delay_s for a in actions if isinstance(a, RestartAfter))


def test_delays_double_up_to_30_s() -> None:
    """Crashes so far apart that they are no loop, but each within 60 s of running."""
    slot, now, seen = RUNNING, 100.0, []
    for _ in range(7):
        now += 59.0
        slot, actions = crash(slot if seen else RUNNING, now if seen else 100.0)
        seen.append(delay(actions))
        slot = restarted(slot, now)
    assert seen == [0, 2, 4, 8, 16, 30, 30]


def test_a_minute_of_running_forgets_restarts() -> None:
    slot, _ = crash(RUNNING, 100.0)
    slot = restarted(slot, 100.0)
    slot, actions = crash(slot, 101.0)
    assert delay(actions) == 2.0
    slot = restarted(slot, 103.0)
    slot, actions = crash(slot, 163.0)
    assert delay(actions) == 0.0


def test_fifth_crash_in_a_minute_gives_up() -> None:
    slot, now = RUNNING, 100.0
    for _ in range(4):
        slot, actions = crash(slot, now)
        now += delay(actions)
        slot = restarted(slot, now)
    slot, actions = crash(slot, now)
    assert slot.status is AppStatus.CRASHED
    assert Log("crash loop: 5 crashes in 60 s, giving up") in actions
    assert actions[-1] == Failed("exit code 1")


def test_five_crashes_in_more_than_a_minute_do_not() -> None:
    slot = RUNNING
    for now in (100.0, 120.0, 140.0, 155.0, 160.1):
        slot, _ = crash(slot, now)
        if now < 160:
            slot = restarted(slot, now)
    assert slot.status is AppStatus.STARTING


def test_a_crashed_slot_starts_again_after_cooling() -> None:
    assert step(CRASHED, Start(), 139.9)[1] == [Refuse()]
    slot, actions = step(CRASHED, Start(), 140.0)
    assert actions == [Spawn()]
    assert (slot.restarts, slot.crashes) == (0, ())


def test_first_start_of_a_deploy_is_not_retried() -> None:
    slot, _ = step(STOPPED, Start(clear=True), NOW)
    slot, actions = crash(slot, NOW + 1)
    assert (slot.status, slot.last_error) == (AppStatus.STOPPED, "exit code 1")
    assert actions == [CRASH_LINE, Failed("exit code 1")]


def test_crash_after_a_good_deploy_is_retried() -> None:
    slot, _ = step(STOPPED, Start(clear=True), NOW)
    slot, _ = step(slot, Ready(), NOW)
    slot, actions = crash(slot, NOW + 1)
    assert delay(actions) == 0.0
    slot, _ = step(slot, RestartDue(), NOW + 1)
    slot, actions = step(slot, Ready(), NOW + 1)
    assert actions == [Log("worker restarted")]


def test_clearing_a_running_slot_does_not_make_its_crash_final() -> None:
    slot, _ = step(RUNNING, Start(clear=True), NOW)
    _, actions = crash(slot, NOW + 1)
    assert delay(actions) == 0.0


def test_start_while_stopping_starts_again() -> None:
    slot, _ = step(STOPPING, Start(), NOW)
    slot, actions = step(slot, EXIT, NOW)
    assert (slot.status, actions) == (AppStatus.STARTING, [Log("worker stopped"), Spawn()])


def test_stop_after_start_while_stopping_stays_stopped() -> None:
    slot, _ = step(STOPPING, Start(), NOW)
    slot, _ = step(slot, StopAsked(), NOW)
    slot, actions = step(slot, EXIT, NOW)
    assert (slot.status, actions) == (AppStatus.STOPPED, [Log("worker stopped")])


@pytest.mark.parametrize("seed", range(20))
def test_invariants_of_random_histories(seed: int) -> None:
    """One process at a time, and none without a way out."""
    rng = random.Random(seed)
    events = [Start(), Start(clear=True), Ready(), EXIT, RestartDue(), StopAsked()]
    slot, now, alive, timer = Slot(), 0.0, False, False
    for _ in range(500):
        event = rng.choice(events)
        if (event is EXIT and not alive) or (event == RestartDue() and not timer):
            continue
        now += rng.choice([0.0, 0.5, 5.0, 70.0])
        alive = alive and event is not EXIT
        timer = timer and event != RestartDue()
        slot, actions = step(slot, event, now)
        for action in actions:
            if isinstance(action, Spawn):
                assert not alive
                alive = True
            elif isinstance(action, RestartAfter):
                assert not timer
                timer = True
            elif isinstance(action, CancelRestart):
                timer = False
        assert slot.alive == alive
        assert slot.alive == (
            slot.status in {AppStatus.RUNNING, AppStatus.STOPPING}
            or (slot.status is AppStatus.STARTING and not timer)
        )
