"""What a module is made of: its kinds of layers, and its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

__all__ = ["Census", "take_census"]

_CLEAR = 0.9  # a type with this share of the weights' bytes is that of the model


@dataclass(frozen=True)
class Census:
    """What a module is made of.

    Attributes
    ----------
    name : str
        Of its class.
    modules : dict
        How many modules without children there are of each class, most first.
    parameters, trainable : int
        Numbers in the parameters, each counted once; and in those that require a gradient.
    by_type : dict
        Their bytes for each type, most first.
    precision : str
        The type of the parameters, or the types and their shares.
    """

    name: str
    modules: Mapping[str, int]
    parameters: int
    trainable: int
    by_type: Mapping[str, int]
    precision: str


def take_census(module: nn.Module) -> Census:
    """Count what a module is made of."""
    kinds = Counter(type(m).__name__ for m in module.modules() if next(m.children(), None) is None)
    parameters = list(module.parameters())
    by_type: Counter[str] = Counter()
    for p in parameters:
        by_type[str(p.dtype).removeprefix("torch.")] += p.numel() * p.element_size()
    return Census(
        type(module).__name__,
        dict(kinds.most_common()),
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        dict(by_type.most_common()),
        _precision(by_type),
    )


def _precision(by_type: Counter[str]) -> str:
    if not by_type:
        return "no weights"
    (main, size), whole = by_type.most_common(1)[0], by_type.total()
    if size >= _CLEAR * whole:
        return main
    return "mixed: " + ", ".join(f"{s / whole:.0%} {name}" for name, s in by_type.most_common())
