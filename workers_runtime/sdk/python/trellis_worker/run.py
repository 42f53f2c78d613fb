"""The runner: ``python -m trellis_worker.run <entry>``.

Loads the entry file as ``__main__``, shakes hands with the host and serves calls until told to
shut down. Exit codes: 0 after ``shutdown``, 1 when the entry file fails or the host is gone.
"""

from __future__ import annotations

import os
import sys
import types

from trellis_worker.output import HostInput, claim_descriptors, redirect
from trellis_worker.registry import registered
from trellis_worker.server import Server
from trellis_worker.wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def load(entry: str) -> dict[str, Any]:
    """Run the entry file as ``__main__``; returns its globals."""
    path = os.path.abspath(entry)
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    with open(path, "rb") as handle:
        code = compile(handle.read(), path, "exec")
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    exec(code, module.__dict__)  # noqa: S102  # running the app's file is the purpose
    return module.__dict__


def print_author_traceback() -> None:
    """Print the current exception without the frames of the runner."""
    import traceback

    kind, value, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(kind, value, trace)


def main() -> NoReturn:
    """Serve the app named on the command line; does not return."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m trellis_worker.run <entry>\n")
        sys.exit(2)
    wire = Wire(*claim_descriptors())
    stream = redirect(wire)
    host_input = sys.stdin
    try:
        namespace = load(sys.argv[1])
        handlers = registered(namespace)
    except Exception:
        print_author_traceback()
        stream.finish()
        sys.stderr.flush()
        os._exit(1)
    if isinstance(host_input, HostInput) and host_input.taken:
        sys.stdout.flush()
        sys.exit(0)
    Server(wire, handlers, stream).serve()


if __name__ == "__main__":
    main()
