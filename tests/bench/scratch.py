"""Scratch environments for peers: Python, npm and Debian packages, kept between runs.

Nothing goes into our own environment. What cannot be had here raises ``Missing``, whose text says
why; the caller prints it and measures the others.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(tempfile.gettempdir()) / "trellis-bench-peers"
INSTALL_LIMIT_S = 900


class Missing(Exception):
    """A peer cannot be had here; the text says why."""


def npm(*packages: str) -> Path:
    """Return a folder with npm packages; installed when missing.

    Raises:
        Missing: no Node, no registry, or the install fails.
    """
    found = _program("npm")

    def install(folder: Path) -> None:
        (folder / "package.json").write_text("{}")
        options = ["--no-audit", "--no-fund", "--omit=dev"]
        run([str(found), "install", *options, *packages], folder)
        sandbox = folder / "node_modules/isolated-vm"
        if sandbox.exists():
            _build(found, sandbox)

    return _once("-".join(packages), install)


def python(*packages: str) -> Path:
    """Return the interpreter of a virtual environment with packages; made when missing.

    Raises:
        Missing: no registry, no wheel, or the install fails.
    """

    def install(folder: Path) -> None:
        run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet"]
        run([*pip, "--only-binary", ":all:", *packages], folder)

    return _once("-".join(packages), install) / "venv/bin/python"


def debian(*packages: str) -> Path:
    """Return a folder with the files of Debian packages, as if it were the root folder.

    Raises:
        Missing: no apt, no such package, or no mirror.
    """
    apt, dpkg = _program("apt-get"), _program("dpkg")

    def install(folder: Path) -> None:
        run([str(apt), "download", *packages], folder)
        for file in folder.glob("*.deb"):
            run([str(dpkg), "-x", str(file), str(folder)], folder)

    return _once("-".join(packages), install)


def run(command: list[str], folder: Path) -> None:
    """Run one step of an install.

    Raises:
        Missing: it failed or took too long; the text has its last words.
    """
    name = " ".join(command[:4])
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.CalledProcessError as exc:
        raise Missing(f"{name}: {exc.stderr.decode(errors='replace').strip()[-300:]}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Missing(f"{name}: {exc}") from exc


def _once(name: str, install: Callable[[Path], None]) -> Path:
    """Return the folder of a name; what a broken run left of it is made again."""
    folder = CACHE / name.replace("/", "+").replace("@", "-").replace("==", "-")
    done = folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        done.touch()
    return folder


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not on the path")
    return Path(found)


def _build(npm_program: Path, addon: Path) -> None:
    """Compile a native addon against the headers that came with Node."""
    node = _program("node").resolve()
    gyp = npm_program.resolve().parents[1] / "node_modules/node-gyp/bin/node-gyp.js"
    headers = f"--nodedir={node.parents[1]}"
    run([str(node), str(gyp), "rebuild", "--release", headers], addon)
