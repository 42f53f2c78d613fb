"""What an app process can see and do, and what is left when its hosts are killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.workers_runtime.conftest import Rig, gone, pack
from tests.support.stack import wait_until
from workers_runtime.protocol import FailureKind

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")

LOOK = """
import os, sys, resource, tempfile
from trellis_worker import serve
def status(name):
    return next(l.split()[1] for l in open("/proc/self/status") if l.startswith(name + ":"))
def look():
    return {
        "env": dict(os.environ), "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
        "cwd": os.getcwd(), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0], "nnp": status("NoNewPrivs"),
        "pgid": os.getpgrp() == os.getpid(), "fds": sorted(os.listdir("/proc/self/fd"), key=int),
    }
def read(path):
    try:
        return open(path).read()[:20] if os.path.isfile(path) else os.listdir(path)
    except OSError as exc:
        return exc.strerror
def write(path):
    try:
        open(path, "w").write("x")
        return "written"
    except OSError as exc:
        return exc.strerror
def hog(mb):
    data = bytearray(mb * 1024 * 1024)
    return len(data)
serve(rpc=dict(look=look, read=read, write=write, hog=hog, tmp=tempfile.gettempdir))
"""


def test_environment_is_built_from_empty(rig: Rig) -> None:
    secrets = {"SMTP_PASS": "x", "PATH": "/evil", "LD_PRELOAD": "evil.so", "1A": "digit"}
    spec = rig.start(LOOK, credentials=secrets)
    env = rig.rpc("look")["env"]
    assert set(env) == {
        "TRELLIS_APP_ID",
        "TRELLIS_RUNTIME_URL",
        "TRELLIS_DEPLOYMENT_ID",
        "ROOTCX_APP_ID",
        "ROOTCX_RUNTIME_URL",
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "PYTHONUNBUFFERED",
        "PYTHONPATH",
        "SMTP_PASS",
    }
    assert env["PATH"] != "/evil"
    assert (env["TRELLIS_APP_ID"], env["TRELLIS_DEPLOYMENT_ID"]) == ("crm", spec.deployment_id)
    assert "leak" not in str(env)


def test_runtime_gets_no_url_and_no_key(rig: Rig) -> None:
    assert rig.client.pid is not None
    runtime = psutil.Process(rig.client.pid)
    if os.geteuid() == 0:
        assert not {"DATABASE_URL", "REDIS_URL", "MASTER_KEY"} & set(runtime.environ())
    else:
        # It hides what it has even from its own user.
        with pytest.raises(psutil.AccessDenied):
            runtime.environ()


def test_limits(rig: Rig) -> None:
    rig.start(LOOK)
    seen = rig.rpc("look")
    assert (seen["nofile"], seen["core"], seen["nnp"]) == (1024, 0, "1")
    assert seen["pgid"] is True
    assert len(seen["fds"]) <= 6


@ROOT_ONLY
def test_user_and_groups(rig: Rig) -> None:
    rig.start(LOOK)
    seen = rig.rpc("look")
    assert seen["uid"] == seen["gid"] >= 61184
    assert seen["groups"] == []


@ROOT_ONLY
def test_files(rig: Rig, tmp_path: Path) -> None:
    rig.start(LOOK)
    seen = rig.rpc("look")
    bundle = Path(seen["cwd"])
    assert rig.rpc("write", str(bundle / "new.txt")) == "Permission denied"
    assert rig.rpc("write", str(bundle / "worker.py")) == "Permission denied"
    assert rig.rpc("read", str(bundle / "worker.py")) != "Permission denied"
    assert rig.rpc("tmp") == seen["env"]["TMPDIR"]
    assert rig.rpc("write", seen["env"]["TMPDIR"] + "/x") == "written"
    rig.start(LOOK, "other")
    assert rig.rpc("read", str(bundle / "worker.py"), app_id="other") == "Permission denied"
    assert rig.rpc("read", seen["env"]["HOME"], app_id="other") == "Permission denied"
    rig.client.stop_app("crm").result(5)
    end = time.monotonic() + 3
    while Path(seen["env"]["HOME"]).exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(seen["env"]["HOME"]).exists()


def test_memory_limit(make_rig) -> None:
    rig = make_rig(WORKER_MEMORY_MB="128")
    rig.start(LOOK)
    assert rig.rpc("hog", 16) == 16 * 1024 * 1024
    assert rig.failure("hog", 400).message == "MemoryError"
    assert rig.rpc("hog", 16) == 16 * 1024 * 1024


@ROOT_ONLY
def test_state_below_a_closed_folder(tmp_path: Path) -> None:
    """The runtime finds a place that app users can reach, and runs apps as them all the same."""
    closed = Path(tempfile.mkdtemp())
    rig = Rig(closed / "state", tmp_path, {})
    try:
        rig.client.start(30)
        rig.start(LOOK)
        seen = rig.rpc("look")
        assert seen["uid"] != 0
        # root/bundles/<app>/<hash>
        used = Path(seen["cwd"]).parents[2]
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        rig.client.stop()
    assert closed not in used.parents
    shutil.rmtree(used)
    shutil.rmtree(closed)


NODE = """
import sys, time, os
from pathlib import Path
from workers_runtime.client import RuntimeClient, RuntimeHandlers
from workers_runtime.protocol import AppSpec
folder, sha, root = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
client = RuntimeClient(state_dir=root, env=dict(os.environ), handlers=RuntimeHandlers(
    fetch_archive=lambda a, d: folder / "node.tgz", on_operation=lambda op, reply: None))
client.start(30)
spec = AppSpec(app_id="orphan", deployment_id="d", sha256=sha, entry_point="worker.py", generation=1)
shake = client.ensure(spec).result(30)
print(client.pid, shake.pid, flush=True)
time.sleep(60)
"""

# A child in the app's process group, and a daemon: in a session of its own, its parent gone.
DAEMON = """
import os, subprocess, sys
from trellis_worker import serve
child = subprocess.Popen(["sleep", "50"])
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon == 0:
        os.execvp("sleep", ["sleep", "51"])
    os.write(write_end, str(daemon).encode())
    os._exit(0)
daemon = int(os.read(read_end, 20))
serve(rpc={"pids": lambda: [os.getpid(), child.pid, daemon], "die": lambda: os._exit(3)})
"""


def _two_sleeping(runtime: int) -> list[int] | None:
    """Return the processes that became ``sleep``, once there are two."""
    below = psutil.Process(runtime).children(recursive=True)
    found = [process.pid for process in below if process.name() == "sleep"]
    return found if len(found) == 2 else None


def test_killed_node_leaves_no_orphan(runtime_root: Path, tmp_path: Path) -> None:
    import hashlib

    data = pack({"worker.py": DAEMON})
    (tmp_path / "node.tgz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    with subprocess.Popen(
        [sys.executable, "-c", NODE, str(tmp_path), digest, str(runtime_root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as node:
        assert node.stdout is not None
        runtime, app = map(int, node.stdout.readline().split())
        sleeping = wait_until(lambda: _two_sleeping(runtime), timeout=5)
        node.kill()
    for pid in (runtime, app, *sleeping):
        assert gone(pid), pid


@pytest.mark.parametrize("forked", [True, False])
def test_nothing_that_an_app_started_survives_it(rig: Rig, forked: bool) -> None:
    """Whether it crashes, is stopped, or its runtime is killed."""
    files = {"worker.py": DAEMON} | ({} if forked else {"requirements.txt": "# none"})
    rig.start(files)
    crashed = rig.rpc("pids")
    assert rig.failure("die").kind is FailureKind.CRASHED
    stopped = rig.rpc("pids")
    assert all(gone(pid) for pid in crashed), crashed
    rig.client.stop_app("crm").result(10)
    assert all(gone(pid) for pid in stopped), stopped
    rig.start(files)
    killed = rig.rpc("pids")
    assert not any(gone(pid, 0.2) for pid in killed)
    assert rig.client.pid is not None
    runtime = psutil.Process(rig.client.pid)
    zygotes = runtime.children()
    runtime.kill()
    for pid in (*killed, *(zygote.pid for zygote in zygotes)):
        assert gone(pid), pid


def test_bad_archives(rig: Rig, tmp_path: Path) -> None:
    spec = rig.spec("handlers = {}")
    stored = rig.archives / f"{spec.deployment_id}.tgz"
    stored.write_bytes(stored.read_bytes()[:-10])
    error = rig.client.ensure(spec, clear=True).exception(20)
    assert error.kind is FailureKind.BAD_ARCHIVE
    stored.unlink()
    error = rig.client.ensure(spec, clear=True).exception(20)
    assert "extract archive" in str(error)


def test_archive_that_cannot_be_fetched(rig: Rig) -> None:
    spec = rig.spec("handlers = {}")

    def refuse(app_id: str, deployment_id: str) -> Path:
        raise LookupError("no such deployment")

    object.__setattr__(rig.client._handlers, "fetch_archive", refuse)
    error = rig.client.ensure(spec, clear=True).exception(20)
    assert error.kind is FailureKind.RUNTIME
    assert "no such deployment" in str(error)


def package(tmp_path: Path) -> dict[str, str]:
    """Return the files of a bundle that brings its own dependency, so no index is needed."""
    return {
        "worker.py": "import shouty, sys\nhandlers = {'rpc': {'x': lambda: [shouty.up('a'), sys.prefix]}}",
        "requirements.txt": "./dep\n",
        "dep/pyproject.toml": (
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        ),
        "dep/backend.py": """
import zipfile
def build_wheel(folder, config=None, metadata=None):
    name = "shouty-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr("shouty.py", "def up(text): return text.upper()")
        info = "shouty-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: shouty\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
""",
    }


def test_requirements(rig: Rig, tmp_path: Path) -> None:
    spec = rig.start(package(tmp_path))
    value, prefix = rig.rpc("x")
    assert value == "A"
    assert "environments/crm/py-" in prefix
    assert Path(prefix).stat().st_uid == os.geteuid()
    rig.client.stop_app("crm").result(5)
    began = time.monotonic()
    rig.client.ensure(spec, clear=True).result(30)
    assert rig.rpc("x") == [value, prefix]
    assert time.monotonic() - began < 5


def test_failing_requirements(rig: Rig) -> None:
    rig.start("handlers = {'rpc': {'x': lambda: 1}}")
    spec = rig.spec({"worker.py": "", "requirements.txt": "./missing-folder\n"})
    error = rig.client.ensure(spec, clear=True).exception(60)
    assert error.kind is FailureKind.INSTALL_FAILED
    assert error.message.startswith("dependency install failed: ")
    assert "missing-folder" in error.message
    assert rig.rpc("x") == 1


def test_install_timeout(make_rig) -> None:
    rig = make_rig(DEPLOY_INSTALL_TIMEOUT="1")
    files = {
        "worker.py": "",
        "requirements.txt": "./dep\n",
        "dep/pyproject.toml": (
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        ),
        "dep/backend.py": "import time\ntime.sleep(60)",
    }
    began = time.monotonic()
    error = rig.client.ensure(rig.spec(files), clear=True).exception(60)
    assert error.kind is FailureKind.INSTALL_FAILED
    assert "gave up after 1 s" in error.message
    assert time.monotonic() - began < 10


def test_javascript_protocol_1(rig: Rig) -> None:
    rig.start(
        {
            "index.js": """
const lines = require("readline").createInterface({input: process.stdin});
lines.on("line", (line) => {
  const m = JSON.parse(line);
  if (m.type === "discover") process.stdout.write(JSON.stringify({type: "discover"}) + "\\n");
  if (m.type === "rpc") process.stdout.write(JSON.stringify({type: "rpc_response", id: m.id, result: [m.params, process.getuid()]}) + "\\n");
  if (m.type === "shutdown") process.exit(0);
});
"""
        },
        runtime="js",
    )
    value, uid = rig.rpc("echo", {"a": 1})
    assert value == {"a": 1}
    assert uid != 0 or os.geteuid() != 0
