"""What a file says of itself: camcore's own card, a CAM that is embedded, and the entries of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from camcore_tools.console import safe

__all__ = ["describe_metadata", "embedded"]

_OWN = "camcore."
_EMBEDDED = "camcore.cam"
_ROOM = 60  # characters of a value
_ENTRIES = 100
_LIMIT = 1 << 16  # characters of what says how a CAM was embedded


def describe_metadata(entries: Mapping[str, str]) -> list[dict[str, Any]]:
    """The entries, camcore's own first: key, length in characters, and the beginning of the value on one line.

    Control characters are taken out of keys and values. Of more than a hundred entries the first ones are shown.
    """
    ordered = sorted(entries, key=lambda key: not key.startswith(_OWN))[:_ENTRIES]
    return [
        {
            "key": safe(key)[:200],
            "ours": key.startswith(_OWN),
            "length": len(entries[key]),
            "value": _beginning(entries[key]),
        }
        for key in ordered
    ]


def _beginning(value: str) -> str:
    text = " ".join(safe(value[: 4 * _ROOM]).split())
    return text if len(text) <= _ROOM and len(value) <= 4 * _ROOM else text[: _ROOM - 3] + "..."


def embedded(entries: Mapping[str, str]) -> dict[str, Any] | None:
    """How a CAM was put into the graph, as the file says; None where it says nothing that can be understood."""
    text = entries.get(_EMBEDDED)
    if text is None or len(text) > _LIMIT:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for numbers of thousands of digits
        return None
    if not isinstance(found, dict):
        return None
    return {safe(k)[:40]: _plain(v) for k, v in list(found.items())[:20]}


def _plain(value: Any) -> Any:
    """A number, a truth, nothing, or a short text: what is foreign in it is told as text."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    if isinstance(value, list) and len(value) <= 8 and all(isinstance(n, int) and abs(n) < 1 << 53 for n in value):
        return value
    return safe(value)[:80]
