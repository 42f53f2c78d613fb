"""Become a command that ends when its parent does.

Run as a script by path, so that it starts in a few milliseconds:
``python -I -S lifeline.py PARENT_PID COMMAND [ARGUMENT...]``. On Linux the kernel sends SIGTERM
to the command when the supervisor dies, even by SIGKILL; elsewhere the next start ends it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and replace it by the command.

    Args:
        arguments: the parent's process id, then the command; leading ``NAME=value`` words
            go into its environment.
    """
    parent, command = int(arguments[0]), arguments[1:]
    while command and command[0].partition("=")[0].isidentifier() and "=" in command[0]:
        name, _, value = command.pop(0).partition("=")
        os.environ[name] = value
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("The supervisor is gone.")
    try:
        os.execvp(command[0], command)  # noqa: S606 -- this script exists to replace itself
    except OSError as exc:
        sys.exit(f"{command[0]}: {exc.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
