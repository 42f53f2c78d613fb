"""Life cycle of one app slot on one node, as a pure function.

``step(state, event, now)`` returns the next state and what to do; it reads no clock and starts
nothing. Diagram: docs/states-worker.md.

Source: contract part 30, 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from workers_runtime.protocol import AppStatus

BACKOFF_S = 2.0
MAX_DELAY_S = 30.0
STABLE_AFTER_S = 60.0
COOLING_S = 60.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How many crashes inside which window end the restarts."""

    max_crashes: int = 5
    crash_window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Slot:
    """State of one slot. Times are those of the caller's monotonic clock.

    Attributes:
        restarts: consecutive restarts; back to 0 after 60 s of running.
        crashes: times of the crashes inside the window.
        alive: a process exists (it may be starting, running or stopping).
        once: this is the first start after start or deploy; failing it is final.
        resume: start again once stopped.
    """

    status: AppStatus = AppStatus.STOPPED
    restarts: int = 0
    crashes: tuple[float, ...] = ()
    running_since: float | None = None
    last_crash_at: float | None = None
    last_error: str | None = None
    alive: bool = False
    once: bool = False
    resume: bool = False


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wants it running; ``clear`` (start, deploy) forgets earlier crashes."""

    clear: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """The process shook hands, or stayed silent for the handshake time."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended or could not be started; ``error`` says how."""

    error: str
    system_line: str = ""


@dataclass(frozen=True, slots=True)
class RestartDue:
    """The restart delay is over."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Nobody wants it running any more."""


Event = Start | Ready | Exited | RestartDue | StopAsked

# --- actions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process."""


@dataclass(frozen=True, slots=True)
class RestartAfter:
    """Send ``RestartDue`` after this many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class CancelRestart:
    """Forget the pending ``RestartDue``."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Begin the shutdown sequence of the process."""


@dataclass(frozen=True, slots=True)
class Log:
    """Write a system line to the app's log."""

    message: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The start was refused: crashed and still cooling down."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The start, or every attempt of it, failed for good."""

    error: str


Action = Spawn | RestartAfter | CancelRestart | Shutdown | Log | Refuse | Failed


def step(
    slot: Slot, event: Event, now: float, policy: Policy | None = None
) -> tuple[Slot, list[Action]]:
    """Return the state after an event and the actions it asks for, in order."""
    policy = policy or Policy()
    if isinstance(event, Start):
        return _start(slot, event, now)
    if isinstance(event, Ready):
        return _ready(slot, now)
    if isinstance(event, Exited):
        return _exited(slot, event, now, policy)
    if isinstance(event, RestartDue):
        return _restart_due(slot)
    return _stop(slot)


def restart_delay_s(restarts: int) -> float:
    """Return the delay before the n-th consecutive restart (1-based): 0, 2, 4, 8, ... 30 s."""
    if restarts <= 1:
        return 0.0
    return float(min(BACKOFF_S * 2 ** min(restarts - 2, 10), MAX_DELAY_S))


def cooling(slot: Slot, now: float) -> bool:
    """Say whether a crashed slot may not be started by a call yet."""
    if slot.status is not AppStatus.CRASHED or slot.last_crash_at is None:
        return False
    return now - slot.last_crash_at < COOLING_S


def _cleared(slot: Slot) -> Slot:
    return replace(slot, restarts=0, crashes=(), last_error=None, once=True)


def _start(slot: Slot, event: Start, now: float) -> tuple[Slot, list[Action]]:
    if slot.status is AppStatus.STOPPING:
        slot = _cleared(slot) if event.clear else slot
        return replace(slot, resume=True), []
    if slot.status is AppStatus.RUNNING:
        # Clearing a running slot must not make its next crash final.
        return (replace(_cleared(slot), once=False) if event.clear else slot), []
    if slot.status is AppStatus.STARTING:
        return _start_again(slot, event)
    if slot.status is AppStatus.CRASHED and not event.clear and cooling(slot, now):
        return slot, [Refuse()]
    if event.clear:
        slot = _cleared(slot)
    elif slot.status is AppStatus.CRASHED:
        slot = replace(slot, restarts=0, crashes=())
    return replace(slot, status=AppStatus.STARTING, alive=True), [Spawn()]


def _start_again(slot: Slot, event: Start) -> tuple[Slot, list[Action]]:
    """Handle a start while starting: only an explicit one cuts a restart delay short."""
    if not event.clear:
        return slot, []
    slot = _cleared(slot)
    if slot.alive:
        return slot, []
    return replace(slot, alive=True), [CancelRestart(), Spawn()]


def _ready(slot: Slot, now: float) -> tuple[Slot, list[Action]]:
    if slot.status is not AppStatus.STARTING or not slot.alive:
        return slot, []
    line = "worker restarted" if slot.restarts else "worker started"
    running = replace(slot, status=AppStatus.RUNNING, running_since=now, once=False)
    return running, [Log(line)]


def _exited(slot: Slot, event: Exited, now: float, policy: Policy) -> tuple[Slot, list[Action]]:
    if not slot.alive:
        return slot, []
    if slot.status is AppStatus.STOPPING:
        return _stopped(slot)
    stable = slot.running_since is not None and now - slot.running_since >= STABLE_AFTER_S
    recent = (*(t for t in slot.crashes if now - t < policy.crash_window_s), now)
    slot = replace(
        slot,
        crashes=recent,
        restarts=0 if stable else slot.restarts,
        running_since=None,
        last_crash_at=now,
        last_error=event.error,
        alive=False,
    )
    lines: list[Action] = [Log(event.system_line or f"worker crashed ({event.error})")]
    if slot.once:
        final = replace(slot, status=AppStatus.STOPPED, once=False, crashes=())
        return final, [*lines, Failed(event.error)]
    if len(recent) >= policy.max_crashes:
        text = (
            f"crash loop: {policy.max_crashes} crashes in {policy.crash_window_s:.0f} s, giving up"
        )
        return replace(slot, status=AppStatus.CRASHED), [*lines, Log(text), Failed(event.error)]
    attempt = slot.restarts + 1
    waiting = replace(slot, status=AppStatus.STARTING, restarts=attempt)
    return waiting, [*lines, RestartAfter(restart_delay_s(attempt))]


def _stopped(slot: Slot) -> tuple[Slot, list[Action]]:
    stopped = replace(
        slot, status=AppStatus.STOPPED, alive=False, running_since=None, restarts=0, resume=False
    )
    if not slot.resume:
        return replace(stopped, crashes=(), once=False), [Log("worker stopped")]
    return replace(stopped, status=AppStatus.STARTING, alive=True), [
        Log("worker stopped"),
        Spawn(),
    ]


def _restart_due(slot: Slot) -> tuple[Slot, list[Action]]:
    if slot.status is not AppStatus.STARTING or slot.alive:
        return slot, []
    line = Log(f"restarting worker (attempt {slot.restarts})")
    return replace(slot, alive=True), [line, Spawn()]


def _stop(slot: Slot) -> tuple[Slot, list[Action]]:
    if slot.status is AppStatus.STOPPING:
        return replace(slot, resume=False), []
    if slot.alive:
        return replace(slot, status=AppStatus.STOPPING, resume=False), [Shutdown()]
    pending = slot.status is AppStatus.STARTING
    stopped = replace(slot, status=AppStatus.STOPPED, restarts=0, crashes=(), once=False)
    return stopped, [CancelRestart()] if pending else []
