"""The guarded client: where it goes, and what it never waits for."""

import ipaddress
import socket
import threading
import time
from contextlib import contextmanager

import httpcore
import pytest

from app.core.outgoing import Outgoing, OutgoingError, is_loopback_host


@contextmanager
def serving(script):
    """Accept connections and run ``script(connection)`` on each."""
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def accept():
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    script(connection)
                except OSError:
                    pass

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        stopped.set()
        with socket.create_connection(server.getsockname()):
            pass
        server.close()
        thread.join(5)


def answering(text):
    return serving(lambda connection: connection.sendall(text))


def get(url, **limits):
    return Outgoing().request("GET", url, loopback=True, **limits)


def test_a_whole_answer():
    text = b'HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 7\r\n\r\n{"a":1}'
    with answering(text) as url:
        answer = get(f"{url}/x?y=z")
    assert (answer.status, answer.headers["x-a"], answer.json()) == (404, "b", {"a": 1})


def test_redirects_are_not_followed():
    with answering(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n") as url:
        assert get(url).status == 302


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://localhost/",
        "file:///etc/passwd",
        "localhost",
        "",
        "https://",
        "http://user:pw@localhost/",
        "http://[::1",
        "http://127.0.0.2/",
        "gopher://127.0.0.1/",
    ],
)
def test_urls_that_are_refused(url):
    with pytest.raises(OutgoingError):
        get(url)


def test_plain_http_is_for_this_machine_and_only_when_allowed():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        assert get(url).status == 200
        with pytest.raises(OutgoingError, match="only https"):
            Outgoing().request("GET", url)


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_names_that_lead_inside_are_refused(monkeypatch, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found)
    with pytest.raises(OutgoingError, match="is not allowed"):
        Outgoing().request("GET", "https://sso.acme.test/")
    with pytest.raises(OutgoingError, match="is not allowed"):
        Outgoing().request("GET", "https://sso.acme.test/", loopback=True)


def test_a_literal_private_address_is_refused_without_a_look_up():
    with pytest.raises(OutgoingError, match="is not allowed"):
        Outgoing().request("GET", "https://10.0.0.1/")


def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(monkeypatch):
    asked, connected = [], []

    def look_up(host, port, **_kwargs):
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(self, host, port, *_rest):
        connected.append((host, port))
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with pytest.raises(OutgoingError):
        Outgoing().request("GET", "https://sso.acme.test/x")
    assert (asked, connected) == (["sso.acme.test"], [("93.184.215.14", 443)])


def test_networks_an_operator_allows(monkeypatch):
    connected = []

    def connect(self, host, port, *_rest):
        connected.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    client = Outgoing((ipaddress.ip_network("10.0.0.0/8"),))
    for url in ("https://10.1.2.3/", "https://192.168.1.1/"):
        with pytest.raises(OutgoingError):
            client.request("GET", url)
    assert connected == ["10.1.2.3"]


def test_answers_have_a_size_limit():
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    with answering(text) as url, pytest.raises(OutgoingError, match="larger than"):
        get(url, max_bytes=50_000)


@pytest.mark.parametrize(
    "script",
    [
        lambda connection: time.sleep(3),
        lambda connection: drip(connection, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100),
        lambda connection: drip(
            connection, b"x" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        ),
    ],
)
def test_silence_and_drips_end_at_the_deadline(script):
    with serving(script) as url:
        begin = time.monotonic()
        with pytest.raises(OutgoingError):
            get(url, timeout_s=0.4)
        assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    "text", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
)
def test_broken_answers(text):
    with answering(text) as url, pytest.raises(OutgoingError):
        get(url)


def test_an_unknown_name_and_a_closed_port():
    for url in ("https://no-such-host.invalid/", "http://127.0.0.1:1/"):
        with pytest.raises(OutgoingError):
            get(url, timeout_s=3)


def test_loopback_hosts():
    assert all(map(is_loopback_host, ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(
        map(is_loopback_host, ["", "localhost.", "evil.localhost.test", "0.0.0.0", "127.1", "::2"])
    )


def drip(connection, slow, at_once=b""):
    connection.sendall(at_once)
    for byte in slow:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)
