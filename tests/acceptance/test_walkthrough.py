"""The README's walk-through, on real processes."""

import subprocess
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "crm" / "demo.sh"


def test_the_walk_through_passes(shared_platform):
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TRELLIS_URL": shared_platform.stack.url,
        "DEMO_EMAIL": "admin@example.com",
    }
    done = subprocess.run(
        [str(DEMO)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All steps passed." in done.stdout
    assert "customer since 20" in done.stdout
    assert '"new":true' in done.stdout.replace(" ", "")
    assert '"companies":1' in done.stdout.replace(" ", "")
