"""The web server's own settings; in a process of its own, for they patch the one they are read in."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json
import config.gunicorn as config_module
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http import wsgi

sent = []

class Socket:
    def sendall(self, data):
        sent.append(bytes(data).decode())

class Request:
    method, version, headers, trailers = "GET", (1, 1), [], []
    def should_close(self):
        return False

def answer(headers, pieces):
    sent.clear()
    response = wsgi.Response(Request(), Socket(), Config())
    response.start_response("200 OK", headers)
    for piece in pieces:
        response.write(piece)
    response.close()
    return list(sent)

def seen(head):
    config = Config()
    for name in ("forwarded_allow_ips", "secure_scheme_headers", "forwarder_headers"):
        config.set(name, getattr(config_module, name))
    request = next(iter(RequestParser(config, [head], ("203.0.113.9", 4711))))
    _, environ = wsgi.create(request, Socket(), ("203.0.113.9", 4711), ("127.0.0.1", 9100), config)
    return {name: environ.get(name) for name in ("wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR")}

print(json.dumps([
    answer([("Content-Length", "5")], [b"hello"]),
    answer([], [b"one", b"two"]),
    answer([("Content-Length", "0")], []),
    seen(HEAD),
]))
"""
HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\nSCRIPT_NAME: /evil\r\nPATH_INFO: /other\r\n\r\n"
)


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-c", f"HEAD = {HEAD!r}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_head_leaves_with_the_first_piece_of_its_body(found):
    whole, stream, empty, _ = found
    (only,) = whole
    assert only.startswith("HTTP/1.1 200 OK\r\n")
    assert only.endswith("\r\n\r\nhello")
    assert stream[0].endswith("\r\n\r\n3\r\none\r\n")
    assert stream[1:] == ["3\r\ntwo\r\n", "0\r\n\r\n"]
    (head,) = empty
    assert head.endswith("\r\n\r\n")


def test_nobody_sets_scheme_or_path_by_a_header(found):
    assert found[-1] == {
        "wsgi.url_scheme": "http",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "REMOTE_ADDR": "203.0.113.9",
    }
