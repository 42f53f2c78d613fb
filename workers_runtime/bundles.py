"""Unpacked deployments, named by the hash of their archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from workers_runtime.archive import ArchiveError, unpack_archive
from workers_runtime.places import Places
from workers_runtime.protocol import FailureKind, WorkerFailure
from workers_runtime.sandbox import Identity


class Bundles:
    """Bundles below one folder; each is complete or absent."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def find(self, app_id: str, sha256: str) -> Path | None:
        """Return the folder of a bundle that is there, marking it used."""
        folder = self._places.bundles / app_id / sha256
        if not folder.is_dir():
            return None
        os.utime(folder)
        return folder

    def unpack(self, app_id: str, sha256: str, archive: Path, identity: Identity | None) -> Path:
        """Unpack an archive; blocking. Idempotent.

        Raises:
            WorkerFailure: bad_archive with the contract's text, or the hash does not match.
        """
        parent = self._places.bundle_folder(app_id, identity)
        target = parent / sha256
        if target.is_dir():
            return target
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            self._write(archive, sha256, staging)
            staging.chmod(0o755)
            self._publish(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target

    @staticmethod
    def _write(archive: Path, sha256: str, staging: Path) -> None:
        try:
            with archive.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                if digest != sha256:
                    text = "extract archive: the stored archive is damaged"
                    raise WorkerFailure(FailureKind.BAD_ARCHIVE, text)
                handle.seek(0)
                unpack_archive(handle, staging)
        except ArchiveError as exc:
            raise WorkerFailure(FailureKind.BAD_ARCHIVE, str(exc)) from None
        except OSError as exc:
            text = f"extract archive: {exc.strerror or type(exc).__name__}"
            raise WorkerFailure(FailureKind.RUNTIME, text) from None

    @staticmethod
    def _publish(staging: Path, target: Path) -> None:
        try:
            staging.rename(target)
        except OSError:
            # Another runtime with the same state directory was faster.
            if not target.is_dir():
                raise
