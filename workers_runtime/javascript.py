"""Finding a JavaScript runtime and the commands that run and install JavaScript apps.

Standard library only; nothing here starts an app. The author API itself is ``sdk/js``.

Source: contract part 30, 2.2, 2.3 and 6.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NO_RUNTIME = "no JavaScript runtime available"
"""Error of a deploy when there is neither Bun nor a usable Node."""

PRELUDE = Path(__file__).parent / "sdk" / "js" / "prelude.mjs"
"""The author API; copy its whole folder when app processes cannot read this one."""

Version = tuple[int, int, int]

OLDEST_NODE: Version = (20, 0, 0)
TYPESCRIPT_SUFFIXES = (".ts", ".mts", ".cts")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_VERSION_TIMEOUT_S = 30
_HEAP_SHARE = 0.75


class JavaScriptError(Exception):
    """An app cannot be run or installed by the runtime at hand; the text says why."""


@dataclass(frozen=True, slots=True)
class JavaScript:
    """A JavaScript runtime of this machine.

    Attributes:
        kind: Bun or Node.
        path: absolute path of the binary.
        version: its own version.
    """

    kind: Literal["bun", "node"]
    path: Path
    version: Version

    def __str__(self) -> str:
        return f"{self.kind.capitalize()} {'.'.join(map(str, self.version))}"

    @property
    def strips_types(self) -> bool:
        """Whether TypeScript entry points run here."""
        return self.kind == "bun" or self.version >= (22, 6, 0)

    def command(
        self, entry_point: str, *, prelude: Path = PRELUDE, memory_mb: int | None = None
    ) -> list[str]:
        """Return the command line of an app process, to be run in the app's folder.

        Args:
            entry_point: path below the working directory.
            prelude: the copy of ``prelude.mjs`` that the process can read.
            memory_mb: memory limit of the process, so that Node collects garbage before it.

        Raises:
            JavaScriptError: a TypeScript entry point, and this Node does not strip types.
        """
        entry = f"./{entry_point}"
        if self.kind == "bun":
            return [str(self.path), "--preload", str(prelude), entry]
        options = self._module_options() + self._type_options(entry_point)
        if memory_mb is not None:
            options.append(f"--max-old-space-size={int(memory_mb * _HEAP_SHARE)}")
        return [str(self.path), *options, "--import", prelude.as_uri(), entry]

    def install_command(self, search_path: str) -> list[str]:
        """Return the command that installs the ``package.json`` of the working directory.

        Args:
            search_path: ``PATH`` to look for npm in, after the folder of Node itself.

        Raises:
            JavaScriptError: there is no npm.
        """
        if self.kind == "bun":
            return [str(self.path), "install"]
        npm = next(_executables("npm", f"{self.path.parent}{os.pathsep}{search_path}"), None)
        if npm is None:
            raise JavaScriptError("package.json needs Bun or npm, and neither is available")
        script = npm.resolve()
        # npm is a script of Node; named so, it does not depend on the PATH of the install.
        start = [str(self.path), str(script)] if script.suffix == ".js" else [str(npm)]
        return [*start, "install", "--omit=dev", "--no-audit", "--no-fund"]

    def _module_options(self) -> list[str]:
        """Have `.js` files without a package type be read as what they are written in."""
        since_20 = (20, 10, 0) <= self.version < (20, 19, 0)
        since_21 = (21, 1, 0) <= self.version < (22, 7, 0)
        return ["--experimental-detect-module"] if since_20 or since_21 else []

    def _type_options(self, entry_point: str) -> list[str]:
        if not entry_point.endswith(TYPESCRIPT_SUFFIXES):
            return []
        if not self.strips_types:
            raise JavaScriptError(
                f"{entry_point} is TypeScript, which {self} cannot run: "
                "deploy JavaScript, or install Bun or Node 22.6 or newer"
            )
        asked = self.version < (22, 18, 0) or (23, 0, 0) <= self.version < (23, 6, 0)
        flags = ["--experimental-strip-types"] if asked else []
        return [*flags, "--disable-warning=ExperimentalWarning"]


def find_javascript(
    search_path: str, read_version: Callable[[Path], str | None] | None = None
) -> JavaScript | None:
    """Return the JavaScript runtime to use: the first Bun that starts, else the first Node >= 20.

    Args:
        search_path: ``PATH`` to search.
        read_version: returns what ``BINARY --version`` prints, or None if it does not start;
            give one that runs it as the apps will run. Default: run it as this process.
    """
    for kind in ("bun", "node"):
        for path in _executables(kind, search_path):
            match = _VERSION.match((read_version or _read_version)(path) or "")
            if match is None:
                continue
            version = (int(match[1]), int(match[2]), int(match[3]))
            if kind == "bun":
                return JavaScript("bun", path, version)
            if version >= OLDEST_NODE:
                return JavaScript("node", path, version)
    return None


def _executables(name: str, search_path: str) -> Iterator[Path]:
    for folder in search_path.split(os.pathsep):
        path = Path(folder or os.curdir).absolute() / name
        if path.is_file() and os.access(path, os.X_OK):
            yield path


def _read_version(path: Path) -> str | None:
    try:
        result = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
