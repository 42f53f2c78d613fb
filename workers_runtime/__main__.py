"""Entry of the runtime: ``python -m workers_runtime --socket PATH --state-dir DIR``.

It is started by its node and ends with it: at the end of the connection, on SIGTERM, and by a
parent-death signal. Exit codes: 0 asked for, 1 it could not start, 2 bad arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from config.garbage import settle
from config.logging import configure_logging
from config.runtime import RuntimeSettings, load_runtime_settings
from workers_runtime.confine import die_with_parent, hide
from workers_runtime.control import listen
from workers_runtime.interpreters import InterpreterError
from workers_runtime.orphans import adopt_orphans, end_orphans
from workers_runtime.places import choose_places
from workers_runtime.runtime import Runtime
from workers_runtime.sandbox import Identities, Sandbox

log = logging.getLogger(__name__)

CONNECT_WITHIN_S = 30.0


def main() -> int:
    """Run until the node says so or is gone; return the exit code."""
    arguments = _arguments()
    if arguments.parent:
        # A signal we catch, not SIGKILL: our own children's groups should go first.
        die_with_parent(arguments.parent, signal.SIGHUP)
    hide()
    adopt_orphans()
    # Files others must read are chmodded explicitly; the umask must not depend on the node's.
    os.umask(0o022)
    try:
        settings = load_runtime_settings(os.environ)  # noqa: TID251  # composition root
    except ValueError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    configure_logging("runtime", json=settings.json_logs, level=settings.log_level)
    try:
        asyncio.run(_serve(arguments, settings))
    except (InterpreterError, OSError):
        log.exception("runtime_failed")
        return 1
    # Threads of the default executor may hang in a blocking install; the processes are gone.
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers_runtime", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to open")
    parser.add_argument("--state-dir", type=Path, required=True, help="bundles, environments")
    parser.add_argument("--parent", type=int, default=0, help="process to die with")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace, settings: RuntimeSettings) -> None:
    sandbox = Sandbox(settings)
    places = choose_places(arguments.state_dir.absolute(), other_users=sandbox.drops_uid)
    identities = None
    if sandbox.drops_uid:
        identities = Identities(places.root / "uids.json", settings)
    runtime = Runtime(
        settings=settings,
        places=places,
        sandbox=sandbox,
        identities=identities,
        env=os.environ,  # noqa: TID251  # composition root
    )
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, runtime.kill)
    server = await listen(arguments.socket, runtime.control)
    work = (runtime.warm_up(), runtime.watch_idle(), runtime.tidy())
    background = [loop.create_task(duty) for duty in work]
    settle()
    log.info("runtime_listening", extra={"sandbox": sandbox.report()})
    try:
        await runtime.ended.wait()
    finally:
        for task in background:
            task.cancel()
        server.close()
        runtime.launcher.close()
        sandbox.started.clear()
        end_orphans(sandbox.started, settle_s=0.05, limit_s=2.0)


if __name__ == "__main__":
    sys.exit(main())
