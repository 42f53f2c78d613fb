"""Files of apps: in Postgres, on disk, and through one-time addresses."""

import io
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.core.errors import TooLarge
from app.files import service
from app.http.views import PLATFORM
from tests.support.api import error

STORE = "/apps/desk/storage"


@pytest.fixture
def admin(shared_admin):
    """The administrator of a platform all tests here share; the app is new before each."""
    shared_admin.delete("/apps/desk")
    assert shared_admin.post("/apps", {"appId": "desk", "name": "Desk"}).status_code == 200
    return shared_admin


@pytest.fixture
def platform(admin):
    return admin.http.application.extensions[PLATFORM]


@pytest.fixture(scope="module")
def user(shared_admin):
    return shared_admin.sign_up("user@example.com")


def upload(client, path, data=b"hello", name="a.txt", kind="text/plain", **parts):
    files = {**parts, "file": (io.BytesIO(data), name, kind)}
    return client.request("POST", path, data=files, content_type="multipart/form-data")


def count(platform, table):
    with platform.engine.connect() as connection:
        return connection.scalar(text(f"SELECT count(*) FROM trellis.{table}"))


def test_a_file_comes_back_as_it_was_sent(admin, user, platform):
    data = bytes(range(256)) * 1500  # two pieces; the test client leaks a file above 500 kB
    made = upload(user, f"{STORE}/upload", data, name="../x/é\x01.bin", kind="image/svg+xml")
    assert made.status_code == 201, made.json
    file_id = made.json["file_id"]
    name = "é.bin"
    assert made.json == {
        "file_id": file_id,
        "name": name,
        "content_type": "image/svg+xml",
        "size": len(data),
    }
    got = admin.get(f"{STORE}/{file_id}")
    assert got.data == data
    assert got.headers["Content-Type"] == "image/svg+xml"
    assert got.headers["Content-Length"] == str(len(data))
    assert got.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert error(admin.get(f"/apps/nope/storage/{file_id}")) == (404, "no app 'nope'")
    admin.post("/apps", {"appId": "other", "name": "Other"})
    missing = (404, f"no file '{file_id}'")
    assert error(admin.get(f"/apps/other/storage/{file_id}")) == missing
    assert error(admin.delete(f"/apps/other/storage/{file_id}")) == missing
    assert error(admin.get(f"{STORE}/x")) == (400, "not a valid UUID: 'x'")
    assert admin.http.get(f"/api/v1{STORE}/{file_id}").status_code == 401
    admin.delete("/apps/desk")
    assert (count(platform, "files"), count(platform, "file_pieces")) == (0, 0)


def test_who_may_delete(admin, user):
    peer = admin.sign_up("peer@example.com")
    admin.post("/roles", {"name": "desk", "permissions": ["app:desk:*"]})
    mine, yours = (upload(user, f"{STORE}/upload").json["file_id"] for _ in range(2))
    refused = (403, "missing permission: app:desk:*")
    assert error(peer.delete(f"{STORE}/{mine}")) == refused
    assert user.delete(f"{STORE}/{mine}").json == {"deleted": mine}
    assert error(user.get(f"{STORE}/{mine}")) == (404, f"no file '{mine}'")
    admin.post("/roles/assign", {"userId": peer.user_id, "role": "desk"})
    assert peer.delete(f"{STORE}/{yours}").json == {"deleted": yours}


def test_bad_uploads(admin):
    for path in (f"{STORE}/upload", "/apps/desk/upload"):
        no_file = (400, "no file in request")
        assert error(admin.post(path, {"a": 1})) == no_file
        form = {"data": {"file": "text"}, "content_type": "multipart/form-data"}
        assert error(admin.request("POST", path, **form)) == no_file
        assert error(upload(admin, path, b"")) == (400, "file is empty")
        big = {"data": b"x" * (50 * 1024 * 1024 + 1), "content_type": "multipart/form-data"}
        assert error(admin.request("POST", path, **big)) == (413, "request body too large")
    assert error(upload(admin, "/apps/nope/upload"))[0] == 404
    assert error(upload(admin, "/apps/pg_x/storage/upload"))[0] == 403
    kind = upload(admin, f"{STORE}/upload", kind="text/html; x=<y>").json["content_type"]
    assert kind == "application/octet-stream"


def test_files_on_disk_are_for_the_worker(admin, platform):
    made = upload(admin, "/apps/desk/upload", b"a,b", name="Q1.CSV")
    assert made.status_code == 201
    file_id = made.json["file_id"]
    assert made.json == {"file_id": file_id, "original_name": "Q1.CSV", "size": 3}
    folder = platform.settings.data_dir / "uploads" / "desk"
    assert (folder / f"{file_id}.csv").read_bytes() == b"a,b"
    for name, extension in (("x.exe", "exe"), ("csv", ""), ("a.csv.html", "html")):
        refused = (400, f"file type '.{extension}' is not accepted")
        assert error(upload(admin, "/apps/desk/upload", name=name)) == refused
    assert [path.name for path in folder.iterdir()] == [f"{file_id}.csv"]
    admin.delete("/apps/desk")
    assert not folder.exists()


def test_an_app_has_a_quota(admin, platform):
    def content():
        return service.Content("a.txt", "text/plain", 6, io.BytesIO(b"123456"))

    before = count(platform, "files")
    with pytest.raises(TooLarge), platform.uow() as uow:
        for _ in range(2):
            service.store(uow, None, app_id="desk", content=content(), quota=10)
    root = platform.settings.data_dir
    service.keep_on_disk(root, app_id="desk", content=content(), quota=10)
    with pytest.raises(TooLarge, match="may take 10 bytes"):
        service.keep_on_disk(root, app_id="desk", content=content(), quota=10)
    assert count(platform, "files") == before


def address(platform, **options):
    with platform.uow() as uow:
        return service.upload_path(uow, None, app_id="desk", name="r.pdf", **options)


def test_one_time_addresses(admin, platform):
    gone = (404, "unknown or expired nonce")
    path = address(platform, content_type="application/pdf", size=4)
    sent = admin.http.post(path, data=b"1234")
    assert sent.status_code == 201, sent.json
    file_id = sent.json["file_id"]
    assert sent.json == {"file_id": file_id, "name": "r.pdf", "size": 4}
    assert error(admin.http.post(path, data=b"1234")) == gone
    path = address(platform, size=4)
    assert error(admin.http.post(path, data=b"12345")) == (400, "file is larger than declared")
    assert error(admin.http.post(path, data=b"1234")) == gone
    assert error(admin.http.post(address(platform), data=b"")) == (400, "file is empty")
    upload_only = address(platform)
    wrong = upload_only.replace("upload", "download")
    assert error(admin.http.get(wrong)) == gone
    assert admin.http.post(upload_only, data=b"x").status_code == 201
    with platform.uow() as uow:
        path = service.download_path(uow, app_id="desk", file_id=UUID(file_id))
    assert admin.http.get(path).data == b"1234"
    assert error(admin.http.get(path)) == gone
    late = address(platform)
    with platform.engine.begin() as connection:
        connection.execute(text("UPDATE trellis.file_nonces SET expires_at = now()"))
    assert error(admin.http.post(late, data=b"x")) == gone
    with platform.uow() as uow:
        assert service.prune(uow, platform.settings.jobs) == 1


# Buckets

BUCKET = "/storage/objects/pics"


@pytest.fixture
def pics(admin):
    for item in admin.get(BUCKET).json or ():
        if isinstance(item, dict):
            admin.delete(f"{BUCKET}/{item['id']}")
    admin.delete("/storage/buckets/pics")
    body = {"name": "pics", "max_file_size": 100, "allowed_types": ["image/*", "text/plain"]}
    assert admin.post("/storage/buckets", body).json == {"name": "pics"}
    return admin


def folder(client, name, parent=None):
    answer = client.post(BUCKET, {"name": name, "parent_id": parent})
    assert answer.status_code == 201, answer.json
    assert answer.json == {"id": answer.json["id"], "name": name, "is_folder": True}
    return answer.json["id"]


def names(client, parent=""):
    return [item["name"] for item in client.get(f"{BUCKET}?parent_id={parent}").json]


def test_buckets(pics, user):
    listed = {bucket["name"]: bucket for bucket in pics.get("/storage/buckets").json}
    assert list(listed) == ["default", "pics"]
    assert listed["pics"]["allowed_types"] == ["image/*", "text/plain"]
    assert (listed["pics"]["public"], listed["pics"]["max_file_size"]) == (False, 100)
    for body, words in (
        ({}, "field 'name' must be 1-63 letters, digits, '-' or '_'"),
        ({"name": "a/b"}, "field 'name' must be 1-63 letters, digits, '-' or '_'"),
        ({"name": "pics"}, "bucket 'pics' exists"),
        ({"name": "b", "public": 1}, "field 'public' must be a boolean"),
        ({"name": "b", "max_file_size": 0}, "field 'max_file_size' must be a number of bytes"),
        (
            {"name": "b", "allowed_types": "x"},
            "field 'allowed_types' must be an array of content types",
        ),
    ):
        assert error(pics.post("/storage/buckets", body)) == (400, words)
    assert error(pics.delete("/storage/buckets/default"))[0] == 400
    assert error(pics.delete("/storage/buckets/nope")) == (404, "no bucket 'nope'")
    folder(pics, "a")
    assert error(pics.delete("/storage/buckets/pics")) == (409, "bucket 'pics' is not empty")
    assert error(user.get("/storage/buckets")) == (403, "missing permission: storage:read")
    assert error(user.get(BUCKET)) == (403, "missing permission: storage:pics:read")
    pics.post("/roles", {"name": "pics", "permissions": ["storage:pics:read"]})
    pics.post("/roles/assign", {"userId": user.user_id, "role": "pics"})
    assert [bucket["name"] for bucket in user.get("/storage/buckets").json] == ["pics"]
    assert names(user) == ["a"]
    assert error(user.post(BUCKET, {"name": "b"})) == (
        403,
        "missing permission: storage:pics:write",
    )


def test_objects(pics):
    outer = folder(pics, "outer")
    inner = folder(pics, "inner", outer)
    made = upload(pics, f"{BUCKET}/upload", b"png", "z.png", "image/png", parent_id=inner)
    assert made.status_code == 201, made.json
    z = made.json["id"]
    assert made.json == {"id": z, "name": "z.png", "content_type": "image/png", "size": 3}
    upload(pics, f"{BUCKET}/upload", name="a.txt")
    assert names(pics) == ["outer", "a.txt"]
    (listed,) = pics.get(f"{BUCKET}?parent_id={inner}").json
    assert {**listed, "created_at": 0} == {
        **{"id": z, "bucket": "pics", "parent_id": inner, "name": "z.png", "is_folder": False},
        **{"content_type": "image/png", "size": 3, "metadata": {}, "created_at": 0},
        "uploaded_by": pics.user_id,
    }
    path = [step["name"] for step in pics.get(f"{BUCKET}/{z}/ancestors").json]
    assert path == ["outer", "inner", "z.png"]
    got = pics.get(f"{BUCKET}/{z}")
    assert (got.data, got.headers["Content-Security-Policy"]) == (b"png", "sandbox")
    assert error(pics.get(f"{BUCKET}/{inner}")) == (400, "a folder has no content")
    into_itself = (400, "an object cannot be moved into itself")
    assert error(pics.patch(f"{BUCKET}/{outer}", {"parent_id": inner})) == into_itself
    assert error(pics.patch(f"{BUCKET}/{outer}", {"parent_id": outer})) == into_itself
    assert pics.patch(f"{BUCKET}/{z}", {"parent_id": "null", "name": "b.png"}).json == {
        "id": z,
        "updated": True,
    }
    assert names(pics) == ["outer", "a.txt", "b.png"]
    assert pics.get(f"{BUCKET}/{z}").headers["Content-Disposition"].endswith('"b.png"')
    exists = (400, "'a.txt' exists in this folder")
    assert error(pics.patch(f"{BUCKET}/{z}", {"name": "a.txt"})) == exists
    assert error(upload(pics, f"{BUCKET}/upload", name="a.txt")) == exists
    assert names(pics) == ["outer", "a.txt", "b.png"]
    pics.patch(f"{BUCKET}/{z}", {"parent_id": inner})
    assert pics.delete(f"{BUCKET}/{outer}").json == {"deleted": outer}
    assert error(pics.get(f"{BUCKET}/{z}")) == (404, f"no object '{z}'")


def test_bad_objects(pics):
    missing = str(uuid4())
    a = upload(pics, f"{BUCKET}/upload").json["id"]
    for answer, expected in (
        (upload(pics, f"{BUCKET}/upload", kind="text/html"), "content type 'text/html' is not"),
        (upload(pics, f"{BUCKET}/upload", b"x" * 101), "files in bucket 'pics' may have 100 bytes"),
        (upload(pics, f"{BUCKET}/upload", b""), "file is empty"),
        (pics.post(BUCKET, {}), "field 'name' is required"),
        (pics.post(BUCKET, {"name": "a/b"}), "field 'name' must be 1-255 characters"),
        (pics.post(BUCKET, {"name": 5}), "field 'name' must be a string"),
        (pics.post(BUCKET, {"name": "b", "parent_id": a}), "'parent_id' must name a folder"),
        (pics.get(f"{BUCKET}/x"), "not a valid UUID: 'x'"),
    ):
        status, words = error(answer)
        assert (status, words[: len(expected)]) == (400, expected)
    for answer in (
        pics.get(f"{BUCKET}?parent_id={missing}"),
        pics.post(BUCKET, {"name": "b", "parent_id": missing}),
        upload(pics, f"{BUCKET}/upload", name="c.txt", parent_id=missing),
        pics.get(f"/storage/objects/default/{a}"),
        pics.delete(f"/storage/objects/default/{a}"),
        upload(pics, "/storage/objects/nope/upload"),
    ):
        assert error(answer)[0] == 404
    assert names(pics) == ["a.txt"]


def test_a_public_bucket_needs_no_token(pics, platform):
    pics.post("/storage/buckets", {"name": "open", "public": True})
    made = upload(pics, "/storage/objects/open/upload").json["id"]
    hidden = upload(pics, f"{BUCKET}/upload").json["id"]
    anybody = pics.http
    assert anybody.get(f"/api/v1/storage/objects/open/{made}").data == b"hello"
    assert anybody.get(f"/api/v1{BUCKET}/{hidden}").status_code == 401
    assert anybody.get(f"/api/v1/storage/objects/nope/{made}").status_code == 401
    assert anybody.get("/api/v1/storage/objects/open").status_code == 401
    assert pics.delete(f"{BUCKET}/{hidden}").status_code == 200
    assert pics.delete(f"/storage/objects/open/{made}").status_code == 200
    assert pics.delete("/storage/buckets/open").json == {"deleted": "open"}
    assert count(platform, "file_pieces") == 0
