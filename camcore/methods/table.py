"""The table of methods: one row a method. Nothing else in the project knows a method by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.methods.probes import Probe

__all__ = ["METHODS", "Method", "method", "register"]

Floats = NDArray[np.floating[Any]]
_RUNS = frozenset({"tail", "model"})
_STORED = frozenset({"images", "features", "head", "second_weight"})
NEEDS = _STORED | _RUNS | {"gradients", "curvature", "moments", "contributions"}

# The least value of options that are counts, in whatever method they stand, and of what NumPy takes as a seed.
_LEAST = {"samples": 1, "groups": 1, "seed": 0}


@dataclass(frozen=True)
class Method:
    """One row: a formula and what it needs.

    Attributes
    ----------
    name : str
    formula : callable
        Takes ``classes``, its ``options`` and each of ``needs`` by keyword, arrays in and an (N, T, *S) array out.
        ``tail`` and ``model`` arrive as ``responses``: (N, T, P) target values of what ``probe`` shows to them.
    needs : frozenset of str
        Out of ``images`` (N, C0, *S0), as the model takes them, in float32; ``features`` (N, C, *S); ``head``;
        ``second_weight`` (K, C), of a second classifier that was trained beside the head and reads the same features;
        ``gradients`` (N, T, C, *S), or with spatial axes of length one where they are the same everywhere;
        ``curvature``, the Hessian times the features, shaped alike; ``moments``, the means of the gradients, their
        squares and cubes over noisy copies of the image; ``contributions`` (N, T, C), what each channel gives the
        target, by DeepLIFT, compared with features of zero; ``tail`` and ``model``: runs of the network behind the
        layer, or of all of it.
    rectifies : bool
        Whether the heatmap starts from ReLU(map); the raw map never does.
    paper : str
        DOI or arXiv id.
    summary : str
        One line for ``camcore methods``.
    options : mapping of str to object
        Keyword arguments of the formula (and of the probe) that a user may set, with their defaults. The type of the
        default is that of every value; None stands for a number that the formula finds itself.
    target : str
        What is explained where the user does not say: see :func:`camcore.targets.target`.
    gradients_of : str
        The target of the gradients, for methods that take it whatever is explained.
    probe : Probe, optional
        What ``tail`` or ``model`` runs on.
    alike : str or callable
        Methods of one name here give the same map, up to a positive factor and a constant, on a linear head behind a
        global average pooling with features that are not negative. A function of the options where they decide.
    from_class_maps : callable, optional
        The map of a score on a pooled linear head as a function of the class maps ``sum_k W_ck A_k`` alone, where there
        is one: (N, T, *S) to (N, T, *S).
    by_options : callable, optional
        Takes the options and gives the fields of the row that they decide, such as ``needs``; or raises for a value
        that the type of its default does not tell apart.
    cure : str
        What to do where a model lacks what the method needs.
    """

    name: str
    formula: Callable[..., Floats]
    needs: frozenset[str]
    rectifies: bool
    paper: str
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str = "logit"
    gradients_of: str = ""
    probe: Probe | None = None
    alike: str | Callable[[Mapping[str, Any]], str] = ""
    from_class_maps: Callable[[Floats], Floats] | None = None
    by_options: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    cure: str = ""

    def set(self, **options: Any) -> Method:
        """The row with other values of its options.

        Raises
        ------
        InputError
            For an option that it has not, or a value of another type than the default.
        """
        for name in options:
            if name not in self.options:
                known = suggest(name, self.options) if self.options else "It has none."
                raise InputError(f"method {self.name!r} has no option {name!r}. {known}")
        given = {**self.options, **{k: self._checked(k, v) for k, v in options.items()}}
        return replace(self, options=given, **(self.by_options(given) if self.by_options else {}))

    def _checked(self, name: str, value: Any) -> Any:
        """The value in the type of the option's default."""
        default, plain = self.options[name], value.item() if isinstance(value, np.generic) else value
        fits, expected = _rule(default, _LEAST.get(name))
        if not fits(plain):
            raise InputError(f"option {name} of {self.name} is {value!r}; expected {expected}")
        return float(plain) if isinstance(default, float) else plain

    @property
    def has_target(self) -> bool:
        """Whether it explains any number made of the scores, not only a score, or none."""
        return bool(self.needs - _STORED)

    @property
    def kin(self) -> str:
        """The group of methods that give the same map on a pooled linear head; empty where it stands alone."""
        return self.alike(self.options) if callable(self.alike) else self.alike


def _rule(default: Any, least: int | None) -> tuple[Callable[[Any], bool], str]:
    """What a value of an option must be, as a test and in words."""
    if isinstance(default, bool):
        return lambda value: isinstance(value, bool), "true or false"
    if isinstance(default, int):
        bound = "" if least is None else f", at least {least}"
        return lambda value: _is_whole(value) and (least is None or value >= least), f"a whole number{bound}"
    if isinstance(default, float):
        return _is_finite, "a finite number"
    if isinstance(default, str):
        return lambda value: isinstance(value, str), f"a word such as {default!r}"
    if default is None:
        return lambda value: value is None or _is_finite(value), "a finite number or none"
    return lambda value: True, "anything"  # of a row from elsewhere: its formula knows


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """A number, be it a whole one, that is finite as a float."""
    return (isinstance(value, float) or _is_whole(value)) and abs(value) <= sys.float_info.max


_TABLE: dict[str, Method] = {}
METHODS: Mapping[str, Method] = MappingProxyType(_TABLE)


def register(row: Method) -> Method:
    """Add a method; a taken name raises."""
    if row.name in _TABLE:
        raise InputError(f"method {row.name!r} is already in the table; choose another name")
    unknown = row.needs - NEEDS
    if unknown:
        raise InputError(f"method {row.name!r} needs {sorted(unknown)}; known needs are {sorted(NEEDS)}")
    wanted = row.needs & _RUNS
    if wanted != ({row.probe.where} if row.probe else set()):
        raise InputError(f"method {row.name!r} needs {sorted(wanted) or 'no runs'}; give a probe for just that")
    _TABLE[row.name] = row
    return row


def method(name: str, **options: Any) -> Method:
    """The row of that name, with some of its options set.

    Examples
    --------
    >>> method("cam").paper
    'arXiv:1512.04150'
    """
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"method {name!r} is not known. {suggest(str(name), METHODS)}")
    return METHODS[name].set(**options)
