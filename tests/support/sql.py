"""What a platform says to Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event

from app.core.statements import Held, Rows, Values


@contextmanager
def spoken(engine: Engine) -> Iterator[list[str]]:
    """Give a list that grows by every statement sent inside the block, SQLAlchemy's and direct."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        sent.append(statement)

    run = Held.run

    def noted(self: Held, text: str, values: Values) -> Rows:
        sent.append(text)
        return run(self, text, values)

    event.listen(engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Held, "run", noted)
        yield sent
    event.remove(engine, "before_cursor_execute", note)
