"""JSON of handler results and operation parameters (contract part 30, section 5)."""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOT_SERIALISABLE = "result is not JSON serialisable"


class NotSerialisable(TypeError):
    """A value has no JSON form."""

    def __init__(self) -> None:
        super().__init__(NOT_SERIALISABLE)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON without a line end.

    Raises:
        NotSerialisable: something in it has no JSON form (NaN and infinity included).
    """
    try:
        text = json.dumps(
            value, default=_convert, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except Exception:
        # An author's ``__json__`` may raise anything.
        raise NotSerialisable from None
    return text.encode("utf-8", "replace")


def _convert(value: Any) -> Any:  # Any: anything an author may return
    """Return the JSON form of a value that ``json`` does not know.

    A value of a type can only exist if that type's module is loaded, so none is imported here.
    """
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        import base64

        return base64.b64encode(value).decode()
    if _is(value, "enum", "Enum"):
        return value.value
    text = _text(value)
    if text is not None:
        return text
    if hasattr(type(value), "__dataclass_fields__"):
        return {name: getattr(value, name) for name in type(value).__dataclass_fields__}
    json_form = getattr(value, "__json__", None)
    if callable(json_form):
        return json_form()
    raise NotSerialisable


def _text(value: Any) -> str | None:  # Any: as above
    """Return the text form of times, ids and decimal numbers; None for other values."""
    if _is(value, "datetime", "datetime"):
        text: str = value.isoformat()
        return text.replace("+00:00", "Z") if value.tzinfo is not None else text + "Z"
    if _is(value, "datetime", "date") or _is(value, "datetime", "time"):
        return str(value.isoformat())
    if _is(value, "uuid", "UUID") or _is(value, "decimal", "Decimal"):
        return str(value)
    return None


def _is(value: object, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
