"""Plan, then apply: which method, at which layer, in which way; decided before any image is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from camcore.errors import HeadNotFound, MethodNotPossible
from camcore.evidence import Backend, Tap
from camcore.methods import METHODS, Method, method

__all__ = ["Plan", "make_plan", "possible"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done.

    Attributes
    ----------
    method : Method
    layer : str or None
        As the user asked; ``tap.layer`` is what was found.
    tap : Tap
    way : str
        ``"closed form"``: from the features and the head of one forward pass.
    """

    method: Method
    layer: str | None
    tap: Tap
    way: str = "closed form"

    def __str__(self) -> str:
        head = f", head {self.tap.how}" if self.tap.head is not None else ""
        return f"{self.method.name} at {self.tap.layer}{head}: {self.way}, one forward pass"


# What "auto" tries, best first.
AUTO = ("cam",)

GIVEN = frozenset({"features", "head"})


def obstacle(row: Method, tap: Tap) -> str:
    """Why ``row`` cannot be computed at ``tap``; empty where it can."""
    missing = row.needs - GIVEN
    if missing:
        return f"needs {', '.join(sorted(missing))}, which this backend does not give."
    return tap.obstacle if "head" in row.needs and tap.head is None else ""


def possible(backend: Backend, layer: str | None = None) -> dict[str, str]:
    """Every method's name with what stands in its way at ``layer`` (empty: nothing)."""
    tap = backend.tap(layer)
    return {name: obstacle(row, tap) for name, row in METHODS.items()}


def make_plan(name: str, backend: Backend, layer: str | None = None, example: Any = None) -> Plan:
    """Choose the way to compute a method; ``example`` is a batch for backends that must run to understand a model.

    Raises
    ------
    MethodNotPossible
        Saying what the method needs, why the model cannot give it, and which methods would work.
    InputError
        For an unknown method or layer.
    """
    rows = [method(n) for n in AUTO] if name == "auto" else [method(name)]
    tap = backend.tap(layer, example)
    for row in rows:
        if not obstacle(row, tap):
            return Plan(row, layer, tap)
    raise refusal(rows[-1], tap)


def refusal(row: Method, tap: Tap) -> MethodNotPossible:
    """The error for a method that cannot be computed."""
    why = obstacle(row, tap)
    works = [n for n, r in METHODS.items() if not obstacle(r, tap)]
    cure = f"Methods that work on this model: {', '.join(works)}." if works else "No method works on this model."
    kind = HeadNotFound if tap.head is None and "head" in row.needs else MethodNotPossible
    return kind(f"{row.name} is not possible here: {why} {cure}")
