"""Author API of Trellis apps: RPC methods, jobs and agents in Python.

An app registers handlers with ``serve(...)``, with an ``App``, or in a module global
``handlers``; the host runs it with ``python -m trellis_worker.run <entry>``.
"""

from trellis_worker.errors import (
    CallOver,
    HostError,
    HostTimeout,
    Reject,
    Retry,
    ToolError,
    WorkerError,
)
from trellis_worker.registry import App, serve

__all__ = [
    "App",
    "CallOver",
    "HostError",
    "HostTimeout",
    "Reject",
    "Retry",
    "ToolError",
    "WorkerError",
    "serve",
]
