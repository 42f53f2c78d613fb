"""Deploy requests that never reach a node: bodies, archives, permissions, no node."""

import gzip
import io
import tarfile

import pytest
from sqlalchemy import text

from tests.support.api import error

BOUNDARY = "xYzZY"
NO_ENTRY = "no entry point: expected worker.py, main.py, … or index.ts, index.js, …"


def tar(*members, **files):
    """Return a .tar.gz of special members and of text files (``_`` stands for a dot)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def part(name, data, extra=""):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def body(*parts):
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def send(client, data, app="crm", content_type=f"multipart/form-data; boundary={BOUNDARY}"):
    return client.post(f"/apps/{app}/deploy", data=data, content_type=content_type)


@pytest.fixture
def crm(admin):
    assert admin.post("/apps", {"appId": "crm", "name": "CRM"}).status_code == 200
    return admin


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"{}", "application/json"),
        (b"", f"multipart/form-data; boundary={BOUNDARY}"),
        (b"x", "multipart/form-data"),
        (b"no boundary here", f"multipart/form-data; boundary={BOUNDARY}"),
        (body(part("other", b"abc")), f"multipart/form-data; boundary={BOUNDARY}"),
        (part("archive", b"never ends"), f"multipart/form-data; boundary={BOUNDARY}"),
    ],
)
def test_a_body_without_the_part_is_refused(crm, data, content_type):
    answer = send(crm, data, content_type=content_type)
    assert error(answer) == (400, "missing 'archive' field")


def test_an_empty_part_is_refused(crm):
    assert error(send(crm, body(part("archive", b"")))) == (400, "empty archive")


@pytest.mark.parametrize(
    "data",
    [b"garbage", gzip.compress(b"not a tar" * 100), tar(worker_py="x = 1")[:-30]],
    ids=["not gzip", "not tar", "truncated"],
)
def test_garbage_is_refused(crm, data):
    status, reason = error(send(crm, body(part("archive", data))))
    assert status == 400
    assert reason.startswith("extract archive: ")


def test_other_parts_and_the_file_name_do_not_matter(crm):
    data = body(
        part("note", b"hello"),
        part("archive", tar(worker_py="x"), '; filename="b.zip"'),
        part("archive", b"the first one counts"),
    )
    assert error(send(crm, data)) == (503, "no worker host available")


def special(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info, b""


@pytest.mark.parametrize(
    "member",
    [
        special("../x"),
        special("/x"),
        special("a/../../x"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "worker.py"),
        special("dev", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
        special("a\\b"),
    ],
)
def test_an_unsafe_entry_is_refused_and_nothing_is_stored(crm, platform, member):
    status, reason = error(send(crm, body(part("archive", tar(member, worker_py="x")))))
    assert status == 400
    assert reason.startswith("unsafe archive entry: ")
    with platform.uow() as uow:
        assert uow.session.scalar(text("SELECT count(*) FROM trellis.deployments")) == 0


def test_an_archive_without_entry_point_is_refused(crm):
    assert error(send(crm, body(part("archive", tar(readme_md="x"))))) == (400, NO_ENTRY)


def test_the_body_limit_holds_with_and_without_a_length(crm):
    big = body(part("archive", b"x" * (50 * 1024 * 1024 + 1)))
    assert error(send(crm, big)) == (413, "request body too large")
    stream = crm.http.open(
        "/api/v1/apps/crm/deploy",
        method="POST",
        input_stream=io.BytesIO(big),
        headers={"Authorization": f"Bearer {crm.token}", "Transfer-Encoding": "chunked"},
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert error(stream) == (413, "request body too large")


def test_who_may_deploy(client, crm):
    good = body(part("archive", tar(worker_py="x")))
    assert error(send(client, good)) == (401, "authentication required")
    user = client.sign_up("ben@example.com")
    assert error(send(user, good)) == (403, "missing permission: admin:apps.deploy")


def test_an_unknown_app_is_404_after_the_body_was_checked(crm):
    good = body(part("archive", tar(worker_py="x")))
    assert error(send(crm, good, app="nope")) == (404, "no app 'nope'")
    assert error(send(crm, body(part("archive", b"")), app="nope")) == (400, "empty archive")


def test_without_a_node_nothing_is_kept(crm, platform):
    good = body(part("archive", tar(worker_py="x")))
    assert error(send(crm, good)) == (503, "no worker host available")
    with platform.uow() as uow:
        assert uow.session.scalar(text("SELECT count(*) FROM trellis.deployments")) == 0
    assert crm.get("/apps/crm/deployments").json == []
