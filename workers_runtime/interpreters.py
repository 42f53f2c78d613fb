"""The Python that app processes run: the host's own, or a copy that their user can reach.

A host that runs as root often has its Python below root's closed home. Opening that home would be
wrong, so the interpreter is copied once, without tests, packages and static libraries.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from workers_runtime.places import Places
from workers_runtime.sandbox import Identity, Sandbox, reachable_by_others

log = logging.getLogger(__name__)

SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "tkinter"}
)
SKIPPED_SUFFIXES = (".a", ".o")
CHECK = "import asyncio, encodings, json, threading, logging"


class InterpreterError(Exception):
    """No interpreter is usable by the worker users."""


def base_python() -> Path:
    """Return the interpreter below all virtual environments, links resolved."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return Path(base).resolve()


def python_for_workers(places: Places, sandbox: Sandbox, identity: Identity | None) -> Path:
    """Return an interpreter that the worker user can run; copies it if need be. Blocking.

    Raises:
        InterpreterError: it does not run as that user.
    """
    python = base_python()
    library = Path(sysconfig.get_path("stdlib"))
    if identity is None:
        return python
    if not (_usable(python) and _usable(library / "os.py")):
        python = _copy(places, python, library)
    if not runs(python, sandbox, identity):
        raise InterpreterError(f"the interpreter {python} does not run as a worker user")
    return python


def interpreter_files(python: Path) -> tuple[Path, ...]:
    """Return what an interpreter reads: its installation, without what else lies around it."""
    prefix = python.parent.parent
    if python.parent.name == "bin" and prefix != Path(prefix.anchor):
        return tuple(prefix / name for name in ("bin", "lib", "lib64", "include", "share"))
    return (python, Path(sysconfig.get_path("stdlib")))


def runs(python: Path, sandbox: Sandbox, identity: Identity | None) -> bool:
    """Say whether the interpreter starts inside the sandbox."""
    try:
        result = subprocess.run(
            [str(python), "-I", "-S", "-c", CHECK],
            env={},
            cwd="/",
            capture_output=True,
            timeout=30,
            check=False,
            **sandbox.spawn_options(identity, None),
        )
    except (OSError, subprocess.SubprocessError):
        return False
    if result.returncode:
        log.warning("runtime_python_failed", extra={"output": result.stderr[-500:].decode()})
    return result.returncode == 0


def _usable(path: Path) -> bool:
    needed = stat.S_IROTH | (stat.S_IXOTH if os.access(path, os.X_OK) else 0)
    return reachable_by_others(path) and path.stat().st_mode & needed == needed


def _copy(places: Places, python: Path, library: Path) -> Path:
    """Copy the interpreter tree once per installation; the mark is in the folder's name."""
    prefix = Path(sys.base_prefix).resolve()
    version = ".".join(map(str, sys.version_info[:3]))
    mark = hashlib.sha256(f"{prefix}:{python.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    target = places.python / f"{version}-{mark}"
    copied = target / "bin" / python.name
    if copied.exists():
        return copied
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=places.python))
    staging.chmod(0o755)
    _copy_tree(prefix, python, library, staging)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not copied.exists():
            raise
    log.info("runtime_python_copied", extra={"from": str(prefix), "to": str(target)})
    return copied


def _copy_tree(prefix: Path, python: Path, library: Path, staging: Path) -> None:
    (staging / "bin").mkdir()
    shutil.copy2(python, staging / "bin" / python.name)
    relative = library.resolve().relative_to(prefix)
    shutil.copytree(library, staging / relative, ignore=_skip, symlinks=True)
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, staging / "lib" / shared.name, follow_symlinks=False)
    _relocate(staging / "bin" / python.name, prefix)


def _skip(_folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name in SKIPPED or name.startswith("config-") or name.endswith(SKIPPED_SUFFIXES)
    }


def _relocate(binary: Path, prefix: Path) -> None:
    """Have a copied binary look for libpython beside itself.

    The library path in its dynamic section is absolute; the relative one is shorter and fits into
    its place. LD_LIBRARY_PATH would do as well, but an app's environment is not ours to add to.
    """
    old = os.fsencode(prefix / "lib") + b"\0"
    new = b"$ORIGIN/../lib\0"
    data = binary.read_bytes()
    if data[:4] != b"\x7fELF" or old not in data or len(new) > len(old):
        return
    binary.write_bytes(data.replace(old, new.ljust(len(old), b"\0")))
