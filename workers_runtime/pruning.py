"""Removing unpacked deployments, dependency environments and copies that nobody uses any more.

Several runtimes may share the folders. Each marks hourly what its processes use, by the time of the
folder's last change, so what was not marked for a while is used by none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from workers_runtime.places import Places

log = logging.getLogger(__name__)

INTERVAL_S = 3600.0
UNUSED_AFTER_S = 2 * INTERVAL_S
KEPT_PER_APP = 3
LONGEST_UNUSED_S = 30 * 86400.0


def prune(places: Places, used: Collection[Path]) -> list[Path]:
    """Remove all but the last three of each app, and what nobody used for a month; blocking.

    Args:
        places: the folders.
        used: folders that processes of this runtime use, or that lie above what they use.

    Returns:
        What was removed.
    """
    for path in used:
        with contextlib.suppress(OSError):
            os.utime(path)
    removed = []
    for folder in _candidates(places):
        with contextlib.suppress(OSError):
            # Out of the way first: nobody may find half of it.
            gone = folder.with_name(f".old-{os.getpid()}-{folder.name}")
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            removed.append(folder)
    if removed:
        log.info("runtime_pruned", extra={"folders": len(removed)})
    return removed


def _candidates(places: Places) -> Iterator[Path]:
    now = time.time()
    for kind in (places.bundles, places.environments):
        for app in _entries(kind):
            # Base environments lie beside the folders of the apps.
            if not app.name.startswith("base-"):
                yield from _stale(app, now, kept=KEPT_PER_APP)
    for shared in (places.python, places.sdk):
        yield from _stale(shared, now, kept=None)


def _stale(folder: Path, now: float, *, kept: int | None) -> Iterator[Path]:
    """Yield the entries of a folder that are not among the newest, or are very old."""
    ages: list[tuple[float, Path]] = []
    for entry in _entries(folder):
        with contextlib.suppress(FileNotFoundError):
            ages.append((now - entry.stat().st_mtime, entry))
    for rank, (age, entry) in enumerate(sorted(ages)):
        surplus = kept is not None and rank >= kept
        if age > (UNUSED_AFTER_S if surplus else LONGEST_UNUSED_S):
            yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
