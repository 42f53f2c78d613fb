"""The command and dependency environment of an app process.

Source: contract part 30, 2.3 and 4.7.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.runtime import INSTALL_VARIABLES, RuntimeSettings
from workers_runtime.installs import Installer
from workers_runtime.interpreters import interpreter_files, python_for_workers
from workers_runtime.javascript import NO_RUNTIME, PRELUDE, JavaScriptError, find_javascript
from workers_runtime.places import Places
from workers_runtime.protocol import AppSpec, FailureKind, WorkerFailure
from workers_runtime.sandbox import Identities, Identity, Sandbox

SDK_FOLDER = Path(__file__).parent / "sdk"


@dataclass(frozen=True, slots=True)
class Command:
    """How to start an app process.

    Attributes:
        reads: files it needs besides those of the system.
        forkable: it runs the shared base environment, so the warm parent can fork it.
    """

    argv: list[str]
    cwd: Path
    env: dict[str, str]
    reads: tuple[Path, ...]
    forkable: bool = False


class Environments:
    """Interpreters, SDK copies and dependency environments of one runtime."""

    def __init__(
        self,
        places: Places,
        sandbox: Sandbox,
        identities: Identities | None,
        settings: RuntimeSettings,
        env: Mapping[str, str],
    ) -> None:
        """Prepare; blocking, may copy the interpreter.

        Args:
            places: where environments live.
            sandbox: applied to installs too.
            identities: users of the apps; None when the host is not root.
            settings: install time limit.
            env: the runtime's environment: package-index and proxy variables, PATH.

        Raises:
            InterpreterError: worker users cannot run Python here.
        """
        self._settings = settings
        self._places = places
        self._path = env.get("PATH") or os.defpath
        installer = identities.installer if identities else None
        self._python = python_for_workers(places, sandbox, installer)
        self._sdk = _publish(SDK_FOLDER / "python", places.sdk, "python")
        self._js_sdk = _publish(PRELUDE.parent, places.sdk, "js")
        self._javascript = find_javascript(self._path, partial(_version, sandbox, installer))
        self._installs = Installer(
            places=places,
            sandbox=sandbox,
            identity=installer,
            python=self._python,
            timeout_s=settings.install_timeout_s,
            env={name: env[name] for name in INSTALL_VARIABLES if name in env},
            path=self._path,
        )

    @property
    def python(self) -> Path:
        """The interpreter of app processes."""
        return self._python

    @property
    def shared(self) -> set[Path]:
        """Folders that every app uses: copies of the SDK and perhaps of the interpreter."""
        return {self._sdk, self._js_sdk, self._python.parent.parent} & self._places_of_copies()

    def _places_of_copies(self) -> set[Path]:
        folders = (self._places.sdk, self._places.python)
        return {entry for folder in folders for entry in folder.iterdir()}

    @property
    def has_javascript(self) -> bool:
        """Whether JavaScript apps can run here."""
        return self._javascript is not None

    async def warm_parent(self) -> tuple[Path, dict[str, str]]:
        """Return the interpreter and environment of a parent of apps without dependencies."""
        python = await self._installs.base()
        return python, {"PATH": self._path, "LANG": "C.UTF-8", "PYTHONPATH": str(self._sdk)}

    async def command(self, spec: AppSpec, bundle: Path, identity: Identity | None) -> Command:
        """Return how to start the app, installing its dependencies if need be.

        Raises:
            WorkerFailure: install_failed, or there is no JavaScript runtime.
        """
        env = {
            "TRELLIS_APP_ID": spec.app_id,
            "TRELLIS_RUNTIME_URL": spec.runtime_url,
            "TRELLIS_DEPLOYMENT_ID": spec.deployment_id,
            "ROOTCX_APP_ID": spec.app_id,
            "ROOTCX_RUNTIME_URL": spec.runtime_url,
            "PATH": self._path,
            "LANG": "C.UTF-8",
        }
        if spec.runtime == "python":
            return await self._python_command(spec, bundle, identity, env)
        return await self._javascript_command(spec, bundle, identity, env)

    async def _python_command(
        self, spec: AppSpec, bundle: Path, identity: Identity | None, env: dict[str, str]
    ) -> Command:
        own = (bundle / "requirements.txt").is_file()
        if own:
            python = await self._installs.python(spec.app_id, bundle, identity)
        else:
            python = await self._installs.base()
        env["PYTHONUNBUFFERED"] = "1"
        env["PYTHONPATH"] = str(self._sdk)
        # -P keeps the working directory off sys.path: a file of the app named like a module of
        # the standard library must not break the SDK before the app's own code runs.
        argv = [str(python), "-P", "-m", "trellis_worker.run", spec.entry_point]
        reads = (bundle, self._sdk, python.parent.parent, *interpreter_files(self._python))
        return Command(argv, bundle, env, reads, forkable=not own)

    async def _javascript_command(
        self, spec: AppSpec, bundle: Path, identity: Identity | None, env: dict[str, str]
    ) -> Command:
        javascript = self._javascript
        if javascript is None:
            raise WorkerFailure(FailureKind.INSTALL_FAILED, NO_RUNTIME)
        reads = [bundle, self._js_sdk, javascript.path.resolve()]
        try:
            prelude = self._js_sdk / PRELUDE.name
            argv = javascript.command(
                spec.entry_point, prelude=prelude, memory_mb=self._settings.memory_mb
            )
            if (bundle / "package.json").is_file():
                install = javascript.install_command(self._path)
                reads.append(
                    await self._installs.javascript(spec.app_id, bundle, identity, install)
                )
        except JavaScriptError as exc:
            raise WorkerFailure(FailureKind.INSTALL_FAILED, str(exc)) from None
        return Command(argv, bundle, env, tuple(reads))


def _version(sandbox: Sandbox, identity: Identity | None, binary: Path) -> str | None:
    """Return what a binary prints for ``--version`` as a worker user, or None."""
    try:
        result: subprocess.CompletedProcess[str] = subprocess.run(
            [str(binary), "--version"],
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            **sandbox.spawn_options(identity, None),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _publish(source: Path, parent: Path, name: str) -> Path:
    """Copy a folder of ours to where worker users can read it, once per content; blocking."""
    files = sorted(p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    target = parent / f"{name}-{version}-{digest.hexdigest()[:16]}"
    if target.is_dir():
        return target
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    for path in files:
        copy = staging / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
    for folder in (staging, *(p for p in staging.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
    return target
