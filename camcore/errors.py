"""What camcore raises: every text says what came, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CamError",
    "CrashError",
    "DeviceError",
    "HeadNotFound",
    "InputError",
    "MethodNotPossible",
    "MissingPackage",
    "suggest",
]


class CamError(Exception):
    """Base of all errors that camcore raises on purpose."""


class InputError(CamError, ValueError):
    """An image, model, class, layer or option cannot be used as it is."""


class CrashError(CamError, RuntimeError):
    """What ran in a process of its own died, hung or asked for more than it may have."""


class MethodNotPossible(CamError):
    """The model cannot give what the method needs."""


class HeadNotFound(MethodNotPossible):
    """The scores are not a linear function of globally pooled features."""


class DeviceError(CamError, RuntimeError):
    """The device asked for is not there or is not really in use."""


class MissingPackage(CamError, ImportError):
    """An optional package is needed for this and is not installed."""


def suggest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """The sentence that offers the names nearest to ``name``.

    Examples
    --------
    >>> suggest("jett", ["jet", "gray"])
    "Did you mean 'jet'?"
    """
    names = list(dict.fromkeys(known))
    close = get_close_matches(name, names, n=limit, cutoff=0.5)
    close = close or [n for n in names if name and name.lower() in n.lower()][:limit]
    if close:
        return f"Did you mean {' or '.join(repr(n) for n in close)}?"
    shown = ", ".join(repr(n) for n in names[:8])
    return f"Known: {shown}{', ...' if len(names) > 8 else ''}." if names else "None are known."
