"""``trellis secrets rotate``: encrypt every secret anew with the current master key."""

from __future__ import annotations

from collections.abc import Callable

from app.cli.errors import CommandError
from config.settings import Settings

SHOWN = 10


def rotate(settings: Settings, say: Callable[[str], None]) -> None:
    """Encrypt what has another key than ``MASTER_KEY``; may be interrupted and run again.

    Args:
        settings: with the database and both keys.
        say: prints one line.

    Raises:
        CommandError: the database cannot be used, or no given key decrypts some of the secrets.
    """
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.orm import Session

    from app.core import vault
    from app.core.crypto import Cipher

    cipher = Cipher(settings.auth.master_key, settings.auth.previous_master_keys)
    engine = create_engine(settings.database.url, poolclass=NullPool)
    done, unreadable = 0, []
    after: tuple[str, str] | None = ("", "")
    try:
        while after is not None:
            with Session(engine) as session, session.begin():
                step = vault.rotate(session, cipher, after=after)
            done, after = done + step.done, step.last
            unreadable += [f"{scope}/{name}" for scope, name in step.unreadable]
    except DBAPIError as exc:
        reason = str(exc.orig).strip().splitlines()[0] if exc.orig else "no answer"
        raise CommandError(f"DATABASE_URL: {reason}") from exc
    say(f"{done} secrets were encrypted anew; all others had the key {cipher.key_id} already.")
    if unreadable:
        rest = ", ..." if len(unreadable) > SHOWN else ""
        raise CommandError(
            f"{len(unreadable)} secrets have a key that is neither MASTER_KEY nor in "
            f"MASTER_KEYS_PREVIOUS: {', '.join(unreadable[:SHOWN])}{rest}"
        )
