"""Test-time smoothing: the mean of the maps of an image's flipped, resized and dimmed copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.evidence import InputSpec
from camcore.resize import resize

__all__ = ["SMOOTHINGS", "Copy", "Smoothing", "smoothing"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Copy:
    """One change of an image, and the way back for its map."""

    flip: bool = False
    scale: float = 1.0
    gain: float = 1.0

    @property
    def same(self) -> bool:
        """Whether it changes nothing."""
        return self == Copy()

    def of(self, images: Floats) -> Floats:
        """The changed (N, C, *S) images, of the same floating type."""
        changed = images[..., ::-1] if self.flip else images
        if self.scale != 1:
            changed = resize(changed, tuple(max(1, round(n * self.scale)) for n in images.shape[2:]))
        return np.ascontiguousarray(changed * np.float32(self.gain), images.dtype)

    def back(self, maps: Floats, size: tuple[int, ...]) -> Floats:
        """A copy's (N, T, *s) maps as they lie on the image, resized to a common size."""
        return resize(maps[..., ::-1] if self.flip else maps, size)


@dataclass(frozen=True)
class Smoothing:
    """The copies whose raw maps are averaged: every flip with every scale and gain. Nothing is random.

    Attributes
    ----------
    flip : bool
        With the image mirrored along its last axis (left and right).
    scales : tuple of float
        Sizes of the image relative to the given one; the model must take them.
    gains : tuple of float
        Factors of the image's values, as pytorch-grad-cam's ``aug_smooth`` takes (0.9, 1, 1.1).
    """

    flip: bool = True
    scales: tuple[float, ...] = (1.0,)
    gains: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        numbers = (*self.scales, *self.gains)
        if not self.scales or not self.gains or not all(np.isfinite(n) and n > 0 for n in numbers):
            raise InputError(f"smoothing scales {self.scales} and gains {self.gains}; expected positive numbers")

    def copies(self) -> Iterator[Copy]:
        """All copies, the image itself first where it is one of them."""
        flips = (False, True) if self.flip else (False,)
        made = [Copy(f, s, g) for s in self.scales for g in self.gains for f in flips]
        yield from sorted(made, key=lambda copy: not copy.same)

    def check(self, spec: InputSpec) -> None:
        """Raise where a model does not take the copies."""
        fixed = [n for n in spec.shape[2:] if n is not None]
        if fixed and set(self.scales) != {1.0}:
            raise InputError(
                f"smoothing with scales {self.scales} needs a model that takes images of any size; this one takes "
                f"{' x '.join('any' if n is None else str(n) for n in spec.shape[2:])}. Take smoothing='flip'"
            )
        if spec.dtype == "uint8" and {*self.scales, *self.gains} != {1.0}:
            raise InputError("the model takes whole pixels (uint8), which cannot be scaled; take smoothing='flip'")


SMOOTHINGS: Mapping[str, Smoothing] = MappingProxyType(
    {
        "flip": Smoothing(),
        "scales": Smoothing(flip=False, scales=(1.0, 0.5, 1.5, 2.0)),
        "flip+scales": Smoothing(scales=(1.0, 0.5, 1.5, 2.0)),
        "flip+gains": Smoothing(gains=(1.0, 0.9, 1.1)),
    }
)


def smoothing(wanted: str | Smoothing | None) -> Smoothing | None:
    """The smoothing that a user means: a name, one of their own, or none.

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> len(list(smoothing("flip+gains").copies()))
    6
    """
    if wanted is None or isinstance(wanted, Smoothing):
        return wanted
    if not isinstance(wanted, str) or wanted not in SMOOTHINGS:
        raise InputError(f"smoothing {wanted!r} is not known. {suggest(str(wanted), SMOOTHINGS)}")
    return SMOOTHINGS[wanted]
