"""Where the runtime keeps files, such that an app's user can reach what it needs.

Layout below the root: ``bundles/<app>/<sha256>``, ``environments/<app>/<hash>``, ``python``,
``sdk``, ``run/<app>-...`` (private home and temporary folder of one process), ``uids.json``.
Only folders made here are ever chowned or chmodded, never a parent.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from workers_runtime.sandbox import Identity, reachable_by_others

log = logging.getLogger(__name__)

SYSTEM_FOLDER = Path("/var/lib/trellis-runtime")


@dataclass(frozen=True, slots=True)
class Places:
    """The runtime's folders."""

    root: Path

    @property
    def bundles(self) -> Path:
        """Unpacked deployments."""
        return self.root / "bundles"

    @property
    def environments(self) -> Path:
        """Dependency environments."""
        return self.root / "environments"

    @property
    def python(self) -> Path:
        """Copies of the interpreter."""
        return self.root / "python"

    @property
    def sdk(self) -> Path:
        """Copies of the author SDK."""
        return self.root / "sdk"

    @property
    def run(self) -> Path:
        """Private folders of running processes."""
        return self.root / "run"

    def bundle_folder(self, app_id: str, identity: Identity | None) -> Path:
        """Make the app's folder for bundles: ours to write, the app's user's to read."""
        folder = self.bundles / app_id
        folder.mkdir(exist_ok=True)
        if identity is not None:
            os.chown(folder, 0, identity.gid)
        folder.chmod(0o750)
        return folder

    def environment_folder(self, app_id: str) -> Path:
        """Make the app's folder for environments; each environment has an owner of its own."""
        folder = self.environments / app_id
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
        return folder

    def private_folder(self, app_id: str, identity: Identity | None) -> Path:
        """Make a new folder with ``home`` and ``tmp`` that only the app's user can enter."""
        folder = Path(tempfile.mkdtemp(prefix=f"{app_id}-{os.getpid()}-", dir=self.run))
        for path in (folder, folder / "home", folder / "tmp"):
            path.mkdir(mode=0o700, exist_ok=True)
            if identity is not None:
                os.chown(path, identity.uid, identity.gid)
        return folder

    def clean_run(self) -> None:
        """Remove private folders of runtimes that are gone; others may share this place."""
        for leftover in self.run.iterdir():
            owner = leftover.name.split("-")[1:2]
            if not (owner and owner[0].isdigit() and _alive(int(owner[0]))):
                shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def choose_places(state_dir: Path, *, other_users: bool) -> Places:
    """Make the runtime's folders.

    Args:
        state_dir: where the node wants them.
        other_users: app processes run as users of their own and must be able to get there. If
            the state folder lies below a closed one, another folder is used and the log says so.

    Raises:
        OSError: no folder could be made.
    """
    root = state_dir
    state_dir.mkdir(parents=True, exist_ok=True)
    if other_users and not reachable_by_others(state_dir / "x"):
        root = _open_folder(state_dir)
        log.warning(
            "runtime_state_moved",
            extra={"state_dir": str(state_dir), "used": str(root)},
        )
    places = Places(root)
    shared = (places.bundles, places.environments, places.python, places.sdk, places.run)
    for folder in shared:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711 if other_users else 0o700)
    places.clean_run()
    return places


def _open_folder(state_dir: Path) -> Path:
    """Find a folder that other users can enter, one per state folder."""
    name = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
    for candidate in (SYSTEM_FOLDER / name, Path(tempfile.gettempdir()) / f"trellis-{name}"):
        try:
            for folder in (candidate.parent, candidate):
                if not folder.exists():
                    folder.mkdir(mode=0o711)
                    folder.chmod(0o711)
        except OSError:
            continue
        # In a folder anybody may write to, the name could be somebody else's trap.
        info = candidate.lstat()
        ours = info.st_uid == os.geteuid() and not candidate.is_symlink()
        if ours and reachable_by_others(candidate / "x"):
            return candidate
    raise OSError(f"no folder that worker users can reach: {state_dir} lies below a closed one")
