"""What is removed from the runtime's folders, and what is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from workers_runtime.places import choose_places
from workers_runtime.pruning import LONGEST_UNUSED_S, UNUSED_AFTER_S, prune


def aged(path: Path, seconds: float) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_three_of_each_app_are_kept_and_what_is_in_use(tmp_path: Path) -> None:
    places = choose_places(tmp_path, other_users=False)
    removed: list[Path] = []
    for kind in (places.bundles, places.environments):
        folders = [aged(kind / "crm" / f"v{n}", UNUSED_AFTER_S * (n + 2)) for n in range(6)]
        aged(kind / "crm" / ".new-x", LONGEST_UNUSED_S * 2)
        used = folders[4]
        removed += prune(places, {used})
        # v4 was marked as used and is now the newest.
        assert {p.name for p in (kind / "crm").iterdir()} == {"v0", "v1", "v4", ".new-x"}
    assert len(removed) == 6


def test_surplus_that_was_used_lately_stays(tmp_path: Path) -> None:
    """Another runtime with the same folders may run it."""
    places = choose_places(tmp_path, other_users=False)
    for number in range(6):
        aged(places.bundles / "crm" / f"v{number}", UNUSED_AFTER_S / 2)
    assert prune(places, ()) == []


def test_what_nobody_used_for_a_month_goes(tmp_path: Path) -> None:
    places = choose_places(tmp_path, other_users=False)
    old = LONGEST_UNUSED_S + 60
    gone = {
        aged(places.bundles / "gone" / "v1", old),
        aged(places.python / "3.11.1-abc", old),
        aged(places.sdk / "python-3.11-old", old),
    }
    base = aged(places.environments / "base-3.11-abc", old)
    sdk = aged(places.sdk / "python-3.11-new", old)
    assert set(prune(places, {sdk})) == gone
    assert base.is_dir()
    assert sdk.is_dir()
    assert not any(path.exists() for path in gone)
