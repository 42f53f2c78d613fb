"""The settings reference in ``docs/configuration.md``, generated from the declarations."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from config.settings import GROUPS

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRO = """# Configuration

Every process reads its settings from environment variables. This page is generated from
`config/settings.py` by `python -m config.reference`; a test fails when the two differ.

| Variable | Default | Meaning |
|---|---|---|
| `APP_ENV` | `development` | `development`, `testing` or `production`. Production refuses to start without `JWT_SECRET` and `MASTER_KEY`. |
| `TRELLIS_DATA_DIR` | `.data` | Directory for generated keys, unpacked deployments and embedded servers. |
"""


def render() -> str:
    """Return the reference as Markdown, one table per group."""
    parts = [INTRO]
    for group in GROUPS.values():
        title = (group.__doc__ or "").strip().splitlines()[0].rstrip(".")
        parts.append(f"\n## {title}\n\n| Variable | Default | Meaning |\n|---|---|---|\n")
        parts.extend(_row(declared) for declared in fields(group))
    return "".join(parts)


def _row(declared: Field[Any]) -> str:  # Any: settings of every type
    metadata = declared.metadata
    return f"| `{metadata['env']}` | {_default(declared.default)} | {metadata['doc']} |\n"


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    if value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, timedelta):
        return f"`{value.total_seconds():g}`"
    return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
