"""What methods show to a network, or to its tail, to see how the target answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Probe", "Scene"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Scene:
    """One image as a probe sees it.

    Attributes
    ----------
    image : (C0, *S0) ndarray
        As the model takes it.
    features : (C, *S) ndarray
    gradients : (C, *S) ndarray or None
        Of one class, where the method needs them; spatial axes may be of length one.
    """

    image: Floats
    features: Floats
    gradients: Floats | None = None


@dataclass(frozen=True)
class Probe:
    """A series of P inputs for one image.

    Attributes
    ----------
    where : {"tail", "model"}
        Who runs the inputs: the network behind the layer takes features, the model takes images.
    count : callable
        ``count(scene, **options)`` gives P.
    inputs : callable
        ``inputs(scene, index, **options)`` gives the (len(index), C, *S) inputs of a range of 0..P-1; the same for an
        index whatever the range it is asked in.
    per_class : bool
        Whether the inputs depend on the class, so that each class has runs of its own.
    linear : callable, optional
        ``linear(features, weight, bias, **options)``: for (C, *S) features, (R, C) weight and (R,) bias the (R, P)
        values of ``weight @ mean(input) + bias``, without making the inputs.
    pooled : callable, optional
        ``pooled(features, **options)``: for (C, *S) features the (P, C) means of the inputs, without making them.
    each : str
        What one input stands for: ``"a channel"``.
    """

    where: str
    count: Callable[..., int]
    inputs: Callable[..., Floats]
    per_class: bool = False
    linear: Callable[..., Floats] | None = None
    pooled: Callable[..., Floats] | None = None
    each: str = "an input"
