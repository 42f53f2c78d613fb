"""Icons that deployed archives bring."""

import pytest
from sqlalchemy import text

from app.workers.events import DeploymentActivated
from app.workers.icons import archive_path, is_picture, keep_icon
from tests.acceptance.conftest import archive
from tests.support.api import error

ICON = "/apps/pix/icon"
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture
def pix(admin):
    assert (
        admin.post("/apps", {"appId": "pix", "name": "P", "icon": "a/logo.svg"}).status_code == 200
    )
    return admin


def activate(platform, **files):
    """Do what a deploy does with an archive, in its transaction."""
    import io
    from uuid import uuid4

    data = archive(**files)
    with platform.uow() as uow:
        keep_icon(uow, DeploymentActivated("pix", uuid4(), None, lambda: io.BytesIO(data)))


def test_the_icon_of_an_archive_is_stored_shown_and_replaced(pix, platform):
    assert error(pix.get(ICON)) == (404, "no icon for app 'pix'")
    activate(platform, **{"a/logo.svg": SVG})
    answer = pix.get(ICON)
    assert answer.text == SVG
    assert answer.content_type == "image/svg+xml"
    assert answer.headers["Cache-Control"] == ("public, max-age=3600, stale-while-revalidate=86400")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    (listed,) = [app for app in pix.get("/apps").json if app["id"] == "pix"]
    first = listed["icon"]
    assert pix.get(f"/apps/pix/storage/{first}").text == SVG
    activate(platform, **{"a/logo.svg": SVG + "<!-- 2 -->"})
    assert pix.get(ICON).text == SVG + "<!-- 2 -->"
    assert pix.get("/apps/pix").json["icon"] != first
    assert error(pix.get(f"/apps/pix/storage/{first}"))[0] == 404
    with platform.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM trellis.files")).scalar() == 1


def test_what_is_no_icon_is_left_alone(pix, platform):
    activate(platform, **{"a/logo.svg": SVG})
    for files in ({"logo.svg": SVG}, {"a/logo.svg": ""}, {"a/logo.svg": "plain text"}):
        activate(platform, **files)
    assert pix.get(ICON).text == SVG
    assert pix.delete("/apps/pix").status_code == 200
    assert error(pix.get(ICON)) == (404, "no icon for app 'pix'")
    assert error(pix.get("/apps/trellis/icon")) == (403, "schema 'trellis' is off limits")


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ("logo.png", "logo.png"),
        ("./a/logo.PNG", "a/logo.PNG"),
        ("/logo.png", None),
        ("a/../logo.png", None),
        ("worker.py", None),
        ("logo", None),
        ("", None),
    ],
)
def test_paths(declared, path):
    assert archive_path(declared) == path


def test_pictures_begin_as_their_extension_says():
    assert is_picture("a.png", b"\x89PNG\r\n")
    assert is_picture("a.svg", b"\xef\xbb\xbf <?xml version='1.0'?>")
    assert not is_picture("a.png", b"<svg/>")
    assert not is_picture("a.png", b"")
