"""The operating-system user that runs the embedded servers.

Postgres refuses to run as root. Started by root, the servers run as another user that
exists already; nothing on the machine is changed for it.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from app.embedded.errors import EmbeddedError

WAY_OUT = "set DATABASE_URL and REDIS_URL to servers of your own, or run as an ordinary user"


class UserOptions(TypedDict, total=False):
    """Arguments of ``subprocess`` that change the user of a child."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """A user that runs the servers; ``switched`` when it is not the caller."""

    name: str
    uid: int
    gid: int
    switched: bool

    def popen_options(self) -> UserOptions:
        """Return the ``subprocess`` arguments that start a child as this user."""
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path | int) -> None:
        """Give a file, directory or descriptor of ours to this user."""
        if self.switched:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, directory: Path) -> bool:
        """Say whether this user may pass through a directory and all its parents.

        Judged by owner, group and mode; access-control lists are not looked at.
        """
        if not self.switched:
            return True
        return all(self._passes(part) for part in (directory, *directory.parents))

    def _passes(self, directory: Path) -> bool:
        info = directory.stat()
        if info.st_uid == self.uid:
            return bool(info.st_mode & 0o100)
        if info.st_gid == self.gid:
            return bool(info.st_mode & 0o010)
        return bool(info.st_mode & 0o001)


def pick_account(run_as: str | None = None, owner_of: Path | None = None) -> Account:
    """Return the user that runs the servers.

    Args:
        run_as: name of the wanted user; only root may choose another than itself.
        owner_of: existing server files; root goes on as their owner.

    Raises:
        EmbeddedError: the user does not exist, or this root may not change to it.
    """
    if os.geteuid() != 0:
        return _own_account(owner_of)
    account = _server_account(run_as, owner_of)
    _check_switch(account)
    return account


def _own_account(owner_of: Path | None) -> Account:
    uid = os.geteuid()
    if owner_of is not None and owner_of.stat().st_uid != uid:
        owner = owner_of.stat().st_uid
        raise EmbeddedError(
            f"The files in {owner_of} belong to user {_name_of(owner)}: run as that user "
            "or as root, or choose another --data-dir."
        )
    return Account(_name_of(uid), uid, os.getegid(), switched=False)


def _server_account(run_as: str | None, owner_of: Path | None) -> Account:
    if owner_of is not None and owner_of.stat().st_uid != 0:
        info = owner_of.stat()
        return Account(_name_of(info.st_uid), info.st_uid, info.st_gid, switched=True)
    for name in (run_as,) if run_as else ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise EmbeddedError("TRELLIS_SERVER_USER: Postgres cannot run as root.")
        return Account(name, entry.pw_uid, entry.pw_gid, switched=True)
    if run_as:
        raise EmbeddedError(f"TRELLIS_SERVER_USER: there is no user '{run_as}'.")
    raise EmbeddedError(
        f"Postgres cannot run as root and there is no user postgres or nobody: {WAY_OUT}."
    )


def _check_switch(account: Account) -> None:
    """Change to the user once, because capabilities and namespaces may forbid it."""
    read_end, write_end = os.pipe()
    try:
        account.own(read_end)
        subprocess.run(
            ["/bin/sh", "-c", "exit 0"], check=True, timeout=30, **account.popen_options()
        )
    except (OSError, subprocess.SubprocessError):
        raise EmbeddedError(
            f"Postgres cannot run as root, and root may not change to user {account.name} "
            f"here: {WAY_OUT}."
        ) from None
    finally:
        os.close(read_end)
        os.close(write_end)


def check_passwd_entry(account: Account) -> None:
    """Refuse a user without a passwd entry, which ``initdb`` cannot work with.

    Raises:
        EmbeddedError: the user has no entry.
    """
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        raise EmbeddedError(
            f"The user with id {account.uid} has no passwd entry, so the embedded Postgres "
            f"cannot be set up: give it one, or {WAY_OUT.partition(', or')[0]}."
        ) from None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
