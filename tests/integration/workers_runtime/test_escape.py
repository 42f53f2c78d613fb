"""App code that tries to get out: once with a user of its own, once with the node's user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from config.runtime import load_runtime_settings
from tests.integration.workers_runtime.conftest import Rig, gone
from workers_runtime.confine import drop_capabilities, landlock_version
from workers_runtime.protocol import FailureKind
from workers_runtime.sandbox import Sandbox

pytestmark = pytest.mark.skipif(landlock_version() < 6, reason="needs Landlock with scopes")

# A user id beyond the user namespace: the runtime cannot change to it and stays what it is.
NO_SUCH_USERS = "4294967000"
CANARY = "canary-of-the-platform"

APP = """
import ctypes, errno, os, signal, socket, subprocess, sys, tempfile
from trellis_worker import serve
LIBC = ctypes.CDLL(None, use_errno=True)
def tried(function):
    def run(params):
        try:
            return function(params)
        except OSError as exc:
            return errno.errorcode.get(exc.errno, str(exc))
    return run
@tried
def read(path):
    if os.path.isdir(path):
        return os.listdir(path)
    with open(path, "rb") as handle:
        return handle.read(4096).decode("utf-8", "replace")
@tried
def write(path):
    with open(path, "a") as handle:
        handle.write("x")
    return "written"
@tried
def chmod(path):
    os.chmod(path, 0o777)
    return "done"
@tried
def kill(pid):
    os.kill(pid, 0)
    return "signalled"
@tried
def connect(address):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\\0" + address[1:] if address.startswith("@") else address)
        return "connected"
@tried
def system_call(numbers):
    values = [ctypes.c_long(n) for n in numbers]
    result = LIBC.syscall(*values)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
@tried
def priority(pid):
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    return "done"
@tried
def limit(pid):
    import resource
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1))
    return "done"
@tried
def shell(command):
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()
def ordinary(_):
    import asyncio, hashlib, shutil, sqlite3, ssl, threading, zoneinfo
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "a")
    with open(path, "w") as handle:
        handle.write("x")
    shutil.copy2(path, path + "2")
    os.rename(path, os.path.join(os.environ["HOME"], "b"))
    os.symlink("a2", os.path.join(folder, "link"))
    with sqlite3.connect(os.path.join(folder, "db")) as db:
        db.execute("create table t (a)")
    async def child():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode()
    ended = subprocess.Popen(["sleep", "50"])
    ended.kill()
    return [asyncio.run(child()), ended.wait(), os.cpu_count() > 0,
            zoneinfo.ZoneInfo("Europe/Vienna").key, socket.gethostbyname("localhost"),
            open("/proc/self/status").read(5), os.path.exists("/dev/null")]
def fork(params):
    import resource
    (most, bound), made = params, 0
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
    try:
        while made < most:
            if os.fork() == 0:
                signal.pause()
            made += 1
    except BlockingIOError:
        pass
    return made
names = "fork read write chmod kill connect system_call priority limit shell ordinary"
serve(rpc={name: globals()[name] for name in names.split()})
"""


def as_ordinary_user(work: Callable[[], Any]) -> Any:
    """Run something without the powers of root; threads it starts have none either."""
    results: list[Any] = []

    def run() -> None:
        if os.geteuid() == 0:
            drop_capabilities()
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture(params=["own", "shared"], scope="module")
def users(request: pytest.FixtureRequest) -> str:
    """Whether apps have users of their own."""
    if request.param == "own" and os.geteuid() != 0:
        pytest.skip("only root can change users")
    return str(request.param)


@pytest.fixture(scope="module")
def rig(users: str, runtime_root: Path) -> Iterator[Rig]:
    """A runtime with two apps that try things."""
    folder = Path(tempfile.mkdtemp(prefix="trellis-test-"))
    if users == "shared":
        rig = Rig(folder / "state", folder, {"WORKER_UID_BASE": NO_SUCH_USERS})
        as_ordinary_user(lambda: rig.client.start(60))
    else:
        rig = Rig(runtime_root, folder, {})
        rig.client.start(60)
    rig.start(APP, "one", credentials={"TOKEN": "secret-of-one"})
    rig.start(APP, "two", credentials={"TOKEN": "secret-of-two"})
    yield rig
    rig.client.stop()
    shutil.rmtree(folder)


@pytest.fixture
def node(rig: Rig) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the node's user with a secret in its environment."""
    env = {"DATABASE_URL": CANARY}
    process = as_ordinary_user(lambda: subprocess.Popen(["/bin/sleep", "60"], env=env))
    yield process
    process.kill()
    process.wait()


def runtime_pids(rig: Rig) -> list[int]:
    assert rig.client.pid is not None
    return [rig.client.pid, *(child.pid for child in psutil.Process(rig.client.pid).children())]


def refused(answer: object) -> bool:
    return answer in {"EACCES", "EPERM", "ENOENT", "EXDEV"}


def test_the_strongest_level_is_on(rig: Rig, users: str) -> None:
    expected = {"landlock", "seccomp", "signal-scope", "no-new-privs", "rlimits"}
    expected |= {"uid"} if users == "own" else set()
    assert expected <= set(rig.state("one").sandbox)
    status = rig.rpc("read", "/proc/self/status", app_id="one")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    # Only who has powers can give them up for good; nobody gains any without new privileges.
    if users == "shared" and os.geteuid() == 0:
        assert "CapBnd:\t0000000000000000" in status


def test_other_processes(rig: Rig, node: subprocess.Popen[bytes]) -> None:
    """Neither their environment nor their memory, and no signal."""
    two = rig.state("two").pid
    assert two is not None
    for pid in (node.pid, two, *runtime_pids(rig)):
        for name in ("environ", "mem", "maps", "cwd/.", "root/.", "fd/0"):
            answer = rig.rpc("read", f"/proc/{pid}/{name}", app_id="one")
            assert refused(answer), (pid, name, answer)
        assert refused(rig.rpc("kill", pid, app_id="one"))
        assert refused(rig.rpc("priority", pid, app_id="one"))
        assert refused(rig.rpc("limit", pid, app_id="one"))
    assert refused(rig.rpc("kill", -1, app_id="one")) or node.poll() is None
    assert node.poll() is None
    assert "secret-of-one" not in str(rig.rpc("read", "/proc/self/environ", app_id="two"))


def test_other_files(rig: Rig, tmp_path: Path) -> None:
    """Not the platform's, not other apps', not its own code, not what anybody may read."""
    platform = tmp_path / "master.key"
    platform.write_text(CANARY)
    platform.chmod(0o600)
    opened = Path(tempfile.mkdtemp(prefix="trellis-test-"))
    opened.chmod(0o777)
    (opened / "note").write_text(CANARY)
    (opened / "note").chmod(0o666)
    others = rig.rpc("shell", "pwd; echo $HOME; echo $TMPDIR", app_id="two").split()
    for path in (str(platform), str(opened / "note"), "/tmp", "/root", "/home", *others):
        answer = rig.rpc("read", path, app_id="one")
        assert refused(answer), (path, answer)
        assert refused(rig.rpc("write", path + "/x" if os.path.isdir(path) else path, app_id="one"))
        rig.rpc("chmod", path, app_id="one")
    assert platform.stat().st_mode & 0o777 == 0o600
    own = psutil.Process(rig.state("one").pid).cwd()
    assert refused(rig.rpc("write", own + "/worker.py", app_id="one"))
    assert refused(rig.rpc("write", own + "/new.py", app_id="one"))
    assert rig.rpc("read", own, app_id="one") == ["worker.py"]
    command = f"cat {platform} {opened}/note; ls /root; echo x > {opened}/new; echo end"
    answer = rig.rpc("shell", command, app_id="one")
    assert CANARY not in answer
    assert answer.count("ermission denied") == 4, answer
    assert answer.startswith("end")
    shutil.rmtree(opened)


def test_sockets_of_the_platform(rig: Rig, tmp_path: Path) -> None:
    """Neither one with a path nor an abstract one."""
    control = next(rig.client._link._state_dir.glob("control-*/runtime.sock"), None)
    name = f"@trellis-test-{os.getpid()}"
    private = Path(tempfile.mkdtemp(prefix="trellis-test-"))
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as abstract:
        by_path.bind(str(private / "s"))
        by_path.listen()
        abstract.bind("\0" + name[1:])
        abstract.listen()
        for address in (str(private / "s"), name, str(control) if control else name):
            assert refused(rig.rpc("connect", address, app_id="one")), address
    shutil.rmtree(private)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_system_calls(rig: Rig) -> None:
    """What reaches other processes or much of the kernel is refused, whatever its arguments."""
    calls = {
        "ptrace": [101, 0, 0, 0, 0],
        "process_vm_readv": [310, os.getpid(), 0, 0, 0, 0, 0],
        "bpf": [321, 0, 0, 0],
        "userfaultfd": [323, 0],
        "perf_event_open": [298, 0, 0, -1, -1, 0],
        "mount": [165, 0, 0, 0, 0, 0],
        "unshare": [272, 0x10000000],
        "clone": [56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0],
        "keyctl": [250, 0, 0, 0, 0, 0],
        "kcmp": [312, 1, 1, 0, 0, 0],
        "init_module": [175, 0, 0, 0],
        "kexec_load": [246, 0, 0, 0, 0],
        "io_uring_setup": [425, 1, 0],
        "setns": [308, 0, 0],
    }
    for name, numbers in calls.items():
        assert rig.rpc("system_call", numbers, app_id="one") == "EPERM", name
    assert rig.rpc("system_call", [435, 0, 0], app_id="one") == "ENOSYS"
    assert rig.rpc("system_call", [0x40000000 + 39], app_id="one") == "ENOSYS"
    answer = rig.rpc("shell", "unshare --user --map-root-user id; echo end", app_id="one")
    assert "not permitted" in answer


def test_ordinary_work_goes_on(rig: Rig) -> None:
    assert rig.rpc("ordinary", None, app_id="one") == [
        "1\n",
        -signal.SIGKILL,
        True,
        "Europe/Vienna",
        "127.0.0.1",
        "Name:",
        True,
    ]


def test_a_fork_bomb_is_bounded_and_ends_with_its_app(rig: Rig, users: str) -> None:
    """The app lowers its own bound, so that the test need not make 512 processes.

    Root without powers is exempt from the kernel's count.
    """
    rig.start(APP, "bomb")
    status = rig.rpc("read", "/proc/self/limits", app_id="bomb")
    bound = next(line.split()[2] for line in status.splitlines() if "Max processes" in line)
    assert bound == ("512" if users == "own" else "8192")
    made = rig.rpc("fork", [40, 20], app_id="bomb")
    exempt = users == "shared" and os.geteuid() == 0
    assert made == 40 if exempt else made < 20
    children = psutil.Process(rig.state("bomb").pid).children()
    assert len(children) == made
    assert rig.rpc("ordinary", None, app_id="one")[0] == "1\n"
    rig.client.stop_app("bomb").result(20)
    assert all(gone(child.pid) for child in children)


def test_javascript(rig: Rig, tmp_path: Path) -> None:
    """V8 runs under the same terms."""
    (tmp_path / "master.key").write_text(CANARY)
    source = """
const fs = require("fs"), os = require("os"), cp = require("child_process"), path = require("path");
const tried = (f) => (p) => { try { return f(p); } catch (e) { return e.code; } };
serve({ rpc: {
  read: tried((p) => fs.readFileSync(p, "utf8")),
  kill: tried((p) => process.kill(p, 0)),
  work: async () => {
    const file = path.join(os.tmpdir(), "x");
    await fs.promises.writeFile(file, "x");
    const heap = Array.from({length: 1e6}, (_, i) => i * 2).reduce((a, b) => a + b);
    const child = cp.execFileSync(process.execPath, ["-e", "console.log(2)"]).toString();
    return [fs.readFileSync(file, "utf8"), heap, child, os.cpus().length > 0];
  },
} });
"""
    if not (shutil.which("node") or shutil.which("bun")):
        pytest.skip("no JavaScript runtime")
    rig.start({"index.js": source}, "js", runtime="js")
    assert rig.rpc("work", app_id="js") == ["x", 999999000000, "2\n", True]
    assert rig.rpc("read", str(tmp_path / "master.key"), app_id="js") in {"EACCES", "EPERM"}
    assert rig.rpc("read", f"/proc/{rig.client.pid}/environ", app_id="js") in {"EACCES", "EPERM"}
    assert rig.rpc("kill", rig.client.pid, app_id="js") == "EPERM"


def test_installs_are_confined_too(rig: Rig, tmp_path: Path, users: str) -> None:
    """Code of a dependency runs at its installation, before the app does."""
    (tmp_path / "master.key").write_text(CANARY)
    backend = f"""
import os
def build_wheel(folder, config=None, metadata=None):
    tried = []
    for path in ({str(tmp_path / "master.key")!r}, "/proc/{rig.client.pid}/environ"):
        try:
            tried.append(open(path).read())
        except OSError as exc:
            tried.append(exc.strerror)
    raise SystemExit("tried: " + repr(tried))
"""
    project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    files = {"worker.py": "", "requirements.txt": "./dep\n"}
    files |= {"dep/pyproject.toml": project, "dep/backend.py": backend}
    error = rig.client.ensure(rig.spec(files, "installs"), clear=True).exception(60)
    assert error.kind is FailureKind.INSTALL_FAILED
    assert "tried: ['Permission denied', 'Permission denied']" in error.message


def test_a_host_below_the_floor(rig: Rig, users: str) -> None:
    """No app code runs on it. A kernel without Landlock is imitated, as this one has it."""
    levels = {}
    for uid_base in ("61184", NO_SUCH_USERS):
        settings = load_runtime_settings(
            {"WORKER_UID_BASE": uid_base, "WORKER_SANDBOX_FLOOR": "isolated"}
        )
        sandbox = Sandbox(settings)
        assert (sandbox.level, sandbox.refusal()) == ("strict", None)
        sandbox._landlock = 0
        levels[uid_base] = sandbox.level, sandbox.refusal()
    text = "this host's sandbox is 'basic', WORKER_SANDBOX_FLOOR asks for 'isolated'"
    assert levels[NO_SUCH_USERS] == ("basic", text)
    if users == "own":
        assert levels["61184"] == ("isolated", None)
