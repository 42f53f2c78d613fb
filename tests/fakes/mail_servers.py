"""A mailbox on loopback: SMTP by aiosmtpd, IMAP by hand, both behind STARTTLS."""

from __future__ import annotations

import contextlib
import datetime
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.stack import free_port

USER = "ana@mail.test"
PASSWORD = "correct horse battery"


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a certificate nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@dataclass
class FakeMailbox:
    """Messages by folder and uid, and what SMTP took."""

    tls: ssl.SSLContext
    folders: dict[str, dict[int, bytes]] = field(
        default_factory=lambda: {"INBOX": {}, "Entw&APw-rfe": {}, "Gesendet": {}}
    )
    sent: list[Envelope] = field(default_factory=list)
    flags: dict[int, str] = field(default_factory=dict)
    validity: int = 4711
    refused: str = ""
    smtp_port: int = 0
    imap_port: int = 0

    def credentials(self, **other: Any) -> dict[str, Any]:
        """Return what a user types in."""
        return {
            "username": USER,
            "password": PASSWORD,
            "imapHost": "127.0.0.1",
            "imapPort": self.imap_port,
            "smtpHost": "127.0.0.1",
            "smtpPort": self.smtp_port,
            "allowInsecureTls": True,
            **other,
        }

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        self.sent.append(envelope)
        return "250 OK"

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: Any, data: Any) -> Any:
    good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=good)


class _IMAP(socketserver.StreamRequestHandler):
    """One connection: what ``imaplib`` says, answered by RFC 3501."""

    server: Any
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.box: FakeMailbox = self.server.box
        self.secure = self.user = False
        self.folder = ""
        self.say("* OK ready")
        while line := self.rfile.readline():
            tag, _, rest = line.decode().strip().partition(" ")
            name, _, arguments = rest.partition(" ")
            if self.command(tag, name.upper(), arguments):
                return

    def finish(self) -> None:
        for opened in (self.rfile, self.wfile, self.connection):
            with contextlib.suppress(OSError, ValueError):
                opened.close()

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
        self.wfile.flush()

    def command(self, tag: str, name: str, arguments: str) -> bool:
        if name == "CAPABILITY":
            self.say(f"* CAPABILITY IMAP4rev1{'' if self.secure else ' STARTTLS LOGINDISABLED'}")
        elif name == "STARTTLS":
            self.say(f"{tag} OK go")
            self.connection = self.box.tls.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb")
            self.secure = True
            return False
        elif name == "LOGIN":
            words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', arguments)
            given = [quoted or bare for quoted, bare in words]
            if not self.secure or given != [USER, PASSWORD]:
                self.say(f"{tag} NO [AUTHENTICATIONFAILED] wrong")
                return False
            self.user = True
        elif name == "LOGOUT":
            self.say("* BYE")
            self.say(f"{tag} OK")
            return True
        elif not self.user:
            self.say(f"{tag} BAD log in first")
            return False
        elif not self.mail(tag, name, arguments):
            return False
        self.say(f"{tag} OK done")
        return False

    def mail(self, tag: str, name: str, arguments: str) -> bool:
        if name == "LIST":
            for folder in self.box.folders:
                flags = "\\HasNoChildren \\Sent" if folder == "Gesendet" else "\\HasNoChildren"
                self.say(f'* LIST ({flags}) "/" "{folder}"')
        elif name in {"SELECT", "EXAMINE"}:
            folder = arguments.strip().strip('"')
            if folder not in self.box.folders:
                self.say(f"{tag} NO no such folder")
                return False
            self.folder = folder
            self.say(f"* {len(self.box.folders[folder])} EXISTS")
            self.say(f"* OK [UIDVALIDITY {self.box.validity}] valid")
        elif name == "UID":
            if self.box.refused and self.box.refused in arguments:
                self.say(f"{tag} NO try again later")
                return False
            self.uid(arguments)
        elif name == "APPEND":
            folder = arguments.split('"')[1]
            size = int(re.search(r"\{(\d+)\}", arguments)[1])
            self.say("+ go on")
            raw = self.rfile.read(size)
            self.rfile.readline()
            messages = self.box.folders[folder]
            messages[max(messages, default=0) + 1] = raw
        else:
            self.say(f"{tag} BAD unknown command {name}")
            return False
        return True

    def uid(self, arguments: str) -> None:
        messages = self.box.folders[self.folder]
        if arguments.startswith("SEARCH UID "):
            start = int(re.search(r"(\d+):\*", arguments)[1])
            # "*" is the highest uid, and a range may be written backwards.
            low, high = sorted((start, max(messages, default=0)))
            found = [uid for uid in messages if low <= uid <= high]
            self.say(f"* SEARCH {' '.join(map(str, found))}".rstrip())
        elif match := re.fullmatch(r"SEARCH SINCE \d\d-[A-Z][a-z]{2}-\d{4}", arguments):
            found = [uid for uid, raw in messages.items() if b"OLD" not in raw]
            self.say(f"* SEARCH {' '.join(map(str, found))}".rstrip())
        elif match := re.fullmatch(r"FETCH (\d+):\* \(UID FLAGS\)", arguments):
            for uid in sorted(messages):
                if uid >= int(match[1]):
                    self.say(f"* 1 FETCH (UID {uid} FLAGS ({self.flags(uid)}))")
        elif match := re.fullmatch(r"FETCH (\d+) \(UID FLAGS BODY\.PEEK\[\]\)", arguments):
            raw = messages.get(int(match[1]))
            uid = int(match[1])
            if raw is not None:
                self.say(
                    f"* 1 FETCH (UID {match[1]} FLAGS ({self.flags(uid)}) BODY[] {{{len(raw)}}}"
                )
                self.wfile.write(raw)
                self.say(")")

    def flags(self, uid: int) -> str:
        return self.box.flags.get(uid, "\\Seen")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_args: Any) -> None:
        """Ignore: clients that refuse our certificate just hang up."""


@contextmanager
def running_mailbox(folder: Path) -> Iterator[FakeMailbox]:
    """Serve a mailbox on free loopback ports until the end of the block."""
    box = FakeMailbox(self_signed(folder))
    smtp = Controller(
        box,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=box.tls,
        require_starttls=True,
        auth_required=True,
        authenticator=_authenticate,
    )
    imap = _Server(("127.0.0.1", 0), _IMAP)
    imap.box = box  # type: ignore[attr-defined]
    box.imap_port = imap.server_address[1]
    thread = threading.Thread(target=imap.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    smtp.start()
    box.smtp_port = smtp.port
    try:
        yield box
    finally:
        smtp.stop()
        imap.shutdown()
        imap.server_close()
        thread.join()
