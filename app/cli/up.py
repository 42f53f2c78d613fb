"""``trellis up``: servers, migrations, then the Procfile's processes under supervision."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from honcho.environ import parse_procfile

from app.cli import place
from app.cli.banner import Banner
from app.cli.errors import CommandError
from app.cli.keeper import ServerKeeper
from app.cli.plan import Plan
from app.cli.processes import ChildRegister
from app.cli.release import ReleaseNote
from app.cli.supervisor import Role, Supervisor
from app.embedded.state import StateDirectory
from config.settings import load_settings

RELEASE = "release"
PLACEHOLDERS = {"DATABASE_URL": "postgresql://embedded", "REDIS_URL": "redis://embedded"}
WARM_SHUTDOWN_S = 30.0
CLOCK_DELAY_S = 2.0


def run(plan: Plan) -> None:
    """Run the platform until it is told to stop.

    Raises:
        CommandError: it cannot be started; nothing is left running.
        EmbeddedError: the same, for a reason of an embedded server.
        ConfigurationError: a variable of the environment is missing or malformed.
    """
    roles = _roles(plan.procfile)
    StateDirectory(plan.data_dir)
    load_settings({**PLACEHOLDERS, **_child_env(plan)})
    with place.only_one(plan.data_dir):
        register = ChildRegister(plan.data_dir / "children.json")
        ended = register.end_leftovers()
        if ended:
            print(f"Ended {ended} processes that an earlier run left behind.", flush=True)
        place.require_port(plan.host, plan.port)
        _run(plan, roles, register)


def _run(plan: Plan, roles: dict[str, Role], register: ChildRegister) -> None:
    release = roles.pop(RELEASE, None)
    supervisor = Supervisor(list(roles.values()), cwd=plan.procfile.parent, register=register)
    supervisor.catch_signals()
    keeper = ServerKeeper(plan.data_dir, plan.env, supervisor.say)
    try:
        env = _child_env(plan) | keeper.start()
        banner = Banner(plan, supervisor, env["REDIS_URL"])
        if release and not supervisor.stopping:
            _release(supervisor, release, env, ReleaseNote(plan.data_dir))
        supervisor.run(env, foreign=keeper.pids, on_tick=banner.tick)
    finally:
        keeper.stop()
        register.end_leftovers()
    print("Stopped.", flush=True)


def _release(
    supervisor: Supervisor, release: Role, env: Mapping[str, str], note: ReleaseNote
) -> None:
    if note.nothing_to_do(release.command, env["DATABASE_URL"]):
        supervisor.say("The schema is up to date")
        return
    code = supervisor.run_once(release, env)
    if not code:
        note.write(release.command, env["DATABASE_URL"])
    elif not supervisor.stopping:
        raise CommandError(f"The release step `{release.command}` failed with exit code {code}.")


def _roles(procfile: Path) -> dict[str, Role]:
    """Read the Procfile.

    Workers are stopped last, because the others send them work. The clock starts last, because
    nobody waits for it and the others need the processor at that moment.
    """
    roles = {}
    for name, command in parse_procfile(procfile.read_text("utf-8")).processes.items():
        if name.startswith("worker"):
            roles[name] = Role(name, command, stage=1, grace_s=WARM_SHUTDOWN_S)
        else:
            delay_s = CLOCK_DELAY_S if name.startswith("beat") else 0.0
            roles[name] = Role(name, command, delay_s=delay_s)
    if not set(roles) - {RELEASE}:
        raise CommandError(f"{procfile} names no process.")
    return roles


def _child_env(plan: Plan) -> dict[str, str]:
    scripts = Path(sys.executable).parent
    # Without compiled modules each start of each process would compile the platform again.
    given = {k: v for k, v in plan.env.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        "PUBLIC_URL": plan.url,
        **given,
        "PATH": os.pathsep.join([str(scripts), plan.env.get("PATH", os.defpath)]),
        "PORT": str(plan.port),
        "TRELLIS_DATA_DIR": str(plan.data_dir),
        "PYTHONUNBUFFERED": "1",
    }
