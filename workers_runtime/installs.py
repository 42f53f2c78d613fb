"""Dependency installs, as an unprivileged user and cached by hash.

Source: contract part 30, 2.3.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from workers_runtime.interpreters import interpreter_files
from workers_runtime.orphans import end_orphans
from workers_runtime.places import Places
from workers_runtime.protocol import FailureKind, WorkerFailure
from workers_runtime.sandbox import Identity, Reach, Sandbox, reachable_by_others

log = logging.getLogger(__name__)

COMPLETE = ".complete"
OUTPUT_CHARS = 4000
LOCAL_REFERENCE = re.compile(
    rb"^\s*(-[erc]|--(editable|requirement|constraint)|\.|/|file:)", re.MULTILINE
)
JS_FILES = (
    *("package.json", "package-lock.json", "npm-shrinkwrap.json", "bun.lock", "bun.lockb"),
    *(".npmrc", "bunfig.toml"),
)
JS_LOCAL_REFERENCE = re.compile(
    rb'"(file|link|workspace):|"(workspaces|(pre|post)?install|prepare)"\s*:'
)

INSTALL_FILES = tuple(Path("/etc") / name for name in ("pip.conf", "xdg", "npmrc", "gitconfig"))


class Installer:
    """Virtual environments and node_modules below ``environments/<app>/<hash>``."""

    def __init__(
        self,
        *,
        places: Places,
        sandbox: Sandbox,
        identity: Identity | None,
        python: Path,
        timeout_s: float,
        env: Mapping[str, str],
        path: str,
    ) -> None:
        self._places = places
        self._sandbox = sandbox
        self._identity = identity
        self._python = python
        self._timeout_s = timeout_s
        self._env = dict(env)
        self._path = path
        self._locks: dict[Path, asyncio.Lock] = {}

    async def base(self) -> Path:
        """Return the interpreter of the shared base environment, making it at first use."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        mark = hashlib.sha256(str(self._python).encode()).hexdigest()[:8]
        target = self._places.environments / f"base-{version}-{mark}"
        python = target / "bin" / "python"
        async with self._lock(target):
            if not python.exists():
                await asyncio.to_thread(self._make_base, target)
        return python

    async def python(self, app_id: str, bundle: Path, identity: Identity | None) -> Path:
        """Return the interpreter of the app's own environment, installing it at first use.

        Raises:
            WorkerFailure: install_failed, with the last output.
        """
        key = await asyncio.to_thread(self._python_key, bundle)
        target = self._places.environment_folder(app_id) / f"py-{key}"
        async with self._lock(target):
            if not (target / COMPLETE).exists():
                await self._install(target, bundle, identity, self._pip_install)
        os.utime(target)
        return target / "bin" / "python"

    async def javascript(
        self, app_id: str, bundle: Path, identity: Identity | None, argv: list[str]
    ) -> Path:
        """Give the bundle its ``node_modules``, installing them at first use.

        Args:
            app_id: whose environment.
            bundle: the unpacked deployment with its ``package.json``.
            identity: user who will read them.
            argv: the install command.

        Returns:
            The folder they are in.

        Raises:
            WorkerFailure: install_failed, with the last output.
        """
        digest = hashlib.sha256(argv[0].encode())
        for name in JS_FILES:
            path = bundle / name
            digest.update(name.encode() + (path.read_bytes() if path.is_file() else b"\0"))
        if _has_local_packages(bundle):
            digest.update(bundle.name.encode())
        target = self._places.environment_folder(app_id) / f"js-{digest.hexdigest()[:24]}"
        async with self._lock(target):
            if not (target / COMPLETE).exists():
                step = partial(self._npm_install, argv)
                await self._install(target, bundle, identity, step)
        os.utime(target)
        link = bundle / "node_modules"
        if not link.exists() and (target / "node_modules").is_dir():
            link.symlink_to(target / "node_modules")
        return target

    # --- inside ----------------------------------------------------------------------------

    def _lock(self, target: Path) -> asyncio.Lock:
        return self._locks.setdefault(target, asyncio.Lock())

    def _make_base(self, target: Path) -> None:
        """Make a virtual environment by hand: two links and a file, no second interpreter run."""
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        self._lay_out(staging)
        try:
            staging.rename(target)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)

    def _lay_out(self, folder: Path) -> None:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site = folder / "lib" / name / "site-packages"
        site.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(self._python)
        for link in ("python3", name):
            (folder / "bin" / link).symlink_to("python")
        version = ".".join(map(str, sys.version_info[:3]))
        (folder / "pyvenv.cfg").write_text(
            f"home = {self._python.parent}\n"
            "include-system-site-packages = false\n"
            f"version = {version}\nexecutable = {self._python}\n"
        )
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            path.chmod(0o755)
        (folder / "pyvenv.cfg").chmod(0o644)

    def _python_key(self, bundle: Path) -> str:
        """Hash what an install depends on; files it may refer to belong to this bundle only."""
        text = (bundle / "requirements.txt").read_bytes()
        digest = hashlib.sha256(text)
        digest.update(f"{sys.version_info[:3]}{self._python}".encode())
        if LOCAL_REFERENCE.search(text):
            digest.update(bundle.name.encode())
        return digest.hexdigest()[:24]

    async def _install(
        self,
        target: Path,
        bundle: Path,
        identity: Identity | None,
        step: Callable[[Path, Path], tuple[list[str], Path]],
    ) -> None:
        """Install in place, because scripts of an environment name its folder.

        Args:
            target: the environment; incomplete until its mark is there.
            bundle: copied for the install user, who must not write into it.
            identity: user who will read the environment.
            step: (environment, source) -> command and working directory.
        """
        staging = Path(tempfile.mkdtemp(prefix=f"install-{os.getpid()}-", dir=self._places.run))
        try:
            await asyncio.to_thread(shutil.rmtree, target, True)
            target.mkdir(mode=0o700)
            await asyncio.to_thread(self._hand_over, staging, bundle)
            argv, cwd = step(target, staging / "source")
            await asyncio.to_thread(self._own, target)
            await self._run(argv, cwd, staging, target)
            await asyncio.to_thread(self._take_back, target, identity)
            (target / COMPLETE).touch()
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, True)

    def _pip_install(self, target: Path, source: Path) -> tuple[list[str], Path]:
        self._lay_out(target)
        return self._pip(target / "bin" / "python", source), source

    @staticmethod
    def _npm_install(argv: list[str], target: Path, source: Path) -> tuple[list[str], Path]:
        if _has_local_packages(source):
            # Links and scripts of such an install need the app's own files beside them, for good.
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        for name in JS_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        return argv, target

    def _hand_over(self, staging: Path, bundle: Path) -> None:
        """Give the install user a copy of the bundle and private folders."""
        ignore = shutil.ignore_patterns("node_modules")
        shutil.copytree(bundle, staging / "source", symlinks=True, ignore=ignore)
        for name in ("home", "tmp"):
            (staging / name).mkdir()
        self._own(staging)

    def _own(self, folder: Path) -> None:
        if self._identity is not None:
            _chown_tree(folder, self._identity.uid, self._identity.gid)

    def _take_back(self, folder: Path, identity: Identity | None) -> None:
        """Make an installed tree ours to write and the app's user's to read."""
        if identity is None:
            return
        _chown_tree(folder, 0, identity.gid)
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod((path.stat().st_mode & 0o755) | 0o040 | (0o010 if path.is_dir() else 0))

    def _pip(self, python: Path, source: Path) -> list[str]:
        """Return the install command: pip, which reads the operator's pip settings, else uv."""
        requirements = ["-r", str(source / "requirements.txt")]
        pip = self._pip_folder()
        if pip is not None:
            # Run from outside the environment, so that pip itself does not end up in it.
            code = f"import sys; sys.path.insert(0, {str(pip)!r}); import runpy; "
            code += "runpy.run_module('pip', run_name='__main__')"
            options = ["--python", str(python), "install", "--no-input", "--no-cache-dir"]
            return [str(self._python), "-c", code, *options, *requirements]
        uv = self._uv()
        if uv is None:
            text = "dependency install failed: neither pip nor uv is available"
            raise WorkerFailure(FailureKind.INSTALL_FAILED, text)
        options = ["--no-cache", "--no-progress", "--python", str(python)]
        return [str(uv), "pip", "install", *options, *requirements]

    def _uv(self) -> Path | None:
        beside = Path(sys.executable).parent / "uv"
        found = str(beside) if beside.exists() else shutil.which("uv", path=self._path)
        if found is None:
            return None
        uv = Path(found).resolve()
        if self._identity is None or reachable_by_others(uv):
            return uv
        return _copy_once(uv, self._places.python / f"uv-{uv.stat().st_mtime_ns}")

    def _pip_folder(self) -> Path | None:
        """Return a folder with pip in it: the host's own, or the one bundled with Python."""
        target = self._places.python / "pip"
        if target.is_dir():
            return target
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=self._places.python))
        try:
            if _find_pip(staging):
                staging.chmod(0o755)
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target if target.is_dir() else None

    def _reach(self, argv: list[str], staging: Path, target: Path) -> Reach:
        """Return the files of an install: its tools, the operator's settings, two folders."""
        tools = [Path(part).resolve() for part in argv if part.startswith("/")]
        given = [Path(value) for value in self._env.values() if value.startswith("/")]
        folders = (self._places.python, *interpreter_files(self._python))
        around = [tool.parent.parent for tool in tools if tool.parent.name == "bin"]
        reads = (*INSTALL_FILES, *folders, *tools, *around, *given)
        return Reach(reads=tuple(reads), writes=(staging, target))

    async def _run(self, argv: list[str], cwd: Path, staging: Path, target: Path) -> None:
        """Run one install.

        Raises:
            WorkerFailure: install_failed: it took too long or ended with another code than 0.
        """
        env = {
            **self._env,
            "PATH": self._path,
            "HOME": str(staging / "home"),
            "TMPDIR": str(staging / "tmp"),
            "LANG": "C.UTF-8",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            **self._sandbox.install_options(self._identity, self._reach(argv, staging, target)),
        )
        self._sandbox.started.add(process.pid)
        output = _Tail()
        try:
            async with asyncio.timeout(self._timeout_s):
                await output.read(process)
                code = await process.wait()
        except TimeoutError:
            output.add(f"\ngave up after {self._timeout_s:.0f} s".encode())
            code = -1
        finally:
            _kill_group(process.pid)
            self._sandbox.started.discard(process.pid)
            user = self._identity.uid if self._identity is not None else None
            end_orphans(self._sandbox.started, user=user)
        if code != 0:
            text = f"dependency install failed: {output.text()}"
            raise _InstallFailure(FailureKind.INSTALL_FAILED, text)


class _InstallFailure(WorkerFailure):
    """An install failure; its text keeps 4000 characters of output after the prefix."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.message = message


class _Tail:
    """The last characters of a stream."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, chunk: bytes) -> None:
        self._data = (self._data + chunk)[-OUTPUT_CHARS * 4 :]

    def text(self) -> str:
        return self._data.decode("utf-8", "replace").strip()[-OUTPUT_CHARS:]

    async def read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        while chunk := await process.stdout.read(1 << 16):
            self.add(chunk)


def _has_local_packages(folder: Path) -> bool:
    """Say whether a ``package.json`` refers to other files of its bundle."""
    return JS_LOCAL_REFERENCE.search((folder / "package.json").read_bytes()) is not None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _chown_tree(root: Path, uid: int, gid: int) -> None:
    os.chown(root, uid, gid, follow_symlinks=False)
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)


def _copy_once(source: Path, target: Path) -> Path:
    if not target.exists():
        staging = target.with_suffix(f".new-{os.getpid()}")
        shutil.copy2(source, staging)
        staging.chmod(0o755)
        staging.rename(target)
    return target


def _find_pip(target: Path) -> bool:
    """Copy an importable pip into a folder; False if this Python has none."""
    spec = find_spec("pip")
    if spec is not None and spec.submodule_search_locations:
        shutil.copytree(spec.submodule_search_locations[0], target / "pip")
        return True
    bundled = find_spec("ensurepip")
    if bundled is None or not bundled.submodule_search_locations:
        return False
    folder = Path(bundled.submodule_search_locations[0]) / "_bundled"
    for wheel in folder.glob("pip-*.whl"):
        shutil.unpack_archive(wheel, target, "zip")
        return True
    return False
