"""The table of methods. The engine knows none of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.formulas import activation_map, cam

__all__ = ["METHODS", "Method", "method", "register"]

NEEDS = frozenset({"features", "head", "gradients", "tail", "model"})


@dataclass(frozen=True)
class Method:
    """One row: a formula and what it needs.

    Attributes
    ----------
    name : str
    formula : callable
        Takes ``classes`` and each of ``needs`` by keyword, arrays in and an (N, T, *S) array out.
    needs : frozenset of str
        Out of ``features``, ``head``, ``gradients``, ``tail``, ``model``.
    rectifies : bool
        Whether the heatmap starts from ReLU(map); the raw map never does.
    paper : str
    summary : str
        One line for ``camcore inspect``.
    from_class_maps : callable, optional
        The same as a function of the class maps ``sum_k W_ck A_k`` alone, where there is one: (N, T, *S) to (N, T, *S).
    """

    name: str
    formula: Callable[..., NDArray[np.floating[Any]]]
    needs: frozenset[str]
    rectifies: bool
    paper: str
    summary: str
    from_class_maps: Callable[[NDArray[np.floating[Any]]], NDArray[np.floating[Any]]] | None = None


_TABLE: dict[str, Method] = {}
METHODS: Mapping[str, Method] = MappingProxyType(_TABLE)


def register(row: Method) -> Method:
    """Add a method; a taken name raises."""
    if row.name in _TABLE:
        raise InputError(f"method {row.name!r} is already in the table; choose another name")
    unknown = row.needs - NEEDS
    if unknown:
        raise InputError(f"method {row.name!r} needs {sorted(unknown)}; known needs are {sorted(NEEDS)}")
    _TABLE[row.name] = row
    return row


def method(name: str) -> Method:
    """The row of that name."""
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known. {suggest(name, METHODS)}")
    return METHODS[name]


register(
    Method(
        name="cam",
        formula=cam,
        needs=frozenset({"features", "head"}),
        rectifies=False,
        paper="arXiv:1512.04150",
        summary="features weighted by the head's row of the class",
        from_class_maps=lambda class_maps: class_maps,
    )
)
register(
    Method(
        name="activationmap",
        formula=activation_map,
        needs=frozenset({"features"}),
        rectifies=False,
        paper="arXiv:2407.06059",
        summary="mean of the features over channels, the same for every class",
    )
)
