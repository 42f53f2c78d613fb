"""The web server's own settings; in a process of its own, for they patch the one they are read in."""

import json
import subprocess
import sys

PROGRAM = """
import json
import config.gunicorn
from gunicorn.config import Config
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

print(json.dumps([
    answer([("Content-Length", "5")], [b"hello"]),
    answer([], [b"one", b"two"]),
    answer([("Content-Length", "0")], []),
]))
"""


def test_a_head_leaves_with_the_first_piece_of_its_body():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    whole, stream, empty = json.loads(done.stdout)
    (only,) = whole
    assert only.startswith("HTTP/1.1 200 OK\r\n")
    assert only.endswith("\r\n\r\nhello")
    assert stream[0].endswith("\r\n\r\n3\r\none\r\n")
    assert stream[1:] == ["3\r\ntwo\r\n", "0\r\n\r\n"]
    (head,) = empty
    assert head.endswith("\r\n\r\n")
