"""What a method may look at, and who gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from camcore.errors import HeadNotFound, InputError
from camcore.head import WHOLE, LinearHead, NormHead
from camcore.preprocess import Preprocess
from camcore.scores import Classes
from camcore.targets import Target

if TYPE_CHECKING:
    from camcore.methods.table import Method

__all__ = [
    "Adapter",
    "Backend",
    "Evidence",
    "Finisher",
    "InputSpec",
    "Layer",
    "Tap",
    "accept_images",
    "milestones",
    "on_host",
]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class InputSpec:
    """The image input of a model; a free axis is None. ``(N, C, *S)``.

    ``guess`` is the channel count to try where ``shape`` leaves it free.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    guess: int | None = None

    @property
    def channels(self) -> int | None:
        """What the model takes, or else what a picture had better have."""
        return (self.shape[1] if len(self.shape) > 1 else None) or self.guess

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) where both are fixed and the input is a picture."""
        if len(self.shape) != 4 or self.shape[2] is None or self.shape[3] is None:
            return None
        return self.shape[2], self.shape[3]


@dataclass(frozen=True)
class Layer:
    """A place where features can be tapped; ``shape`` is (C, *S) with None where it is free or not known."""

    name: str
    shape: tuple[int | None, ...]
    op: str = ""


def milestones(layers: Sequence[Layer], keep: str) -> list[Layer]:
    """Of layers in the order of the network: the last one of each map size, and the one named ``keep``."""
    last = {layer.shape[1:]: layer.name for layer in layers}
    names = {*last.values(), keep}
    return [layer for layer in layers if layer.name in names]


@dataclass(frozen=True, eq=False)
class Tap:
    """The features of a layer, and how the scores come from them.

    Attributes
    ----------
    layer : str
        The name of the features.
    head : LinearHead, NormHead or None
        None where the scores are no such function of the pooled features; ``obstacle`` then says why.
    how : str
        The operations from the features to the scores.
    scores_are : str
        ``"logit"``: the scores that the head gives (found before a final softmax where there is one);
        ``"independent logit"``: found before a sigmoid, so that each class stands for itself.
    slack : float or (K,) ndarray
        Difference that quantisation explains.
    span : tuple of float
        Between which quantisation holds the scores: it cuts off what is beyond.
    tolerance : float
        Relative difference that the arithmetic explains: 1e-3 in float32, 2e-2 in float16.
    no_gradient : str
        Why the network behind the layer cannot be differentiated, as far as is known without running it.
    """

    layer: str
    head: LinearHead | NormHead | None = None
    how: str = ""
    obstacle: str = ""
    scores_are: str = "logit"
    shape: tuple[int | None, ...] = ()
    slack: Any = 0.0
    span: tuple[float, float] = WHOLE
    tolerance: float = 1e-3
    no_gradient: str = ""

    def need_head(self) -> LinearHead:
        """The linear head, or the error that says what stands in its way."""
        if isinstance(self.head, LinearHead):
            return self.head
        raise HeadNotFound(self.linear_obstacle)

    @property
    def linear_obstacle(self) -> str:
        """Why there is no linear head; empty where there is one."""
        if isinstance(self.head, NormHead):
            return f"the head ({self.how}) normalises over the channels, so no row of weights makes a score."
        return self.obstacle if self.head is None else ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a backend saw in one batch; only what was asked for is filled.

    Attributes
    ----------
    scores : (N, K) float32 ndarray
    classes : (N, T) int64 ndarray
    features : (N, C, *S) ndarray or None
    head : LinearHead, NormHead or None
    class_maps : (N, T, *S) ndarray or None
        ``sum_k W_ck A_k`` of the classes, where the backend sums them itself.
    gradients : (N, T, C, *S) ndarray or None
        Of the target of each class with respect to the features.
    curvature : (N, T, C, *S) ndarray or None
        The Hessian of the target, times the features.
    contributions : (N, T, C) ndarray or None
        What each channel gives the target of each class, by DeepLIFT: their sum is what the target loses with all of
        the layer set to zero.
    maps : (N, T, *S) ndarray or None
        Of a method, where the backend made them itself.
    """

    scores: Floats
    classes: NDArray[np.int64]
    features: Floats | None = None
    head: LinearHead | NormHead | None = None
    class_maps: Floats | None = None
    gradients: Floats | None = None
    curvature: Floats | None = None
    contributions: Floats | None = None
    maps: Floats | None = None

    def need_features(self) -> Floats:
        """The features, which the backend must give where they were asked for."""
        if self.features is None:
            raise InputError("the backend gave no features, though they were asked for")
        return self.features


class Backend(Protocol):
    """A model that can be explained. One class an adapter; everything else is in the core."""

    kind: str
    fixed: bool
    """True where weights cannot change between calls, so that what was checked once holds."""
    gives: frozenset[str]
    """Out of ``features``, ``head``, ``class_maps`` (summed where the features are), ``gradients``, ``curvature``,
    ``contributions``, ``second_weight``, ``maps`` (then it is a :class:`Finisher`), ``tail`` and ``model``."""
    labels: tuple[str, ...] | None
    preprocess: Preprocess | None
    input: InputSpec

    @property
    def device(self) -> str:
        """Where the model runs: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``."""

    @property
    def second_weight(self) -> Floats | None:
        """(K, C) of a second classifier, which reads what the head reads; asked for only where ``gives`` names it."""

    def tap(self, layer: str | None = None, example: Floats | None = None) -> Tap:
        """The features of ``layer`` (None: those that the head reads) and the head behind them.

        ``example`` is a batch for backends that must run a model to understand it.
        """

    def layers(self) -> Sequence[Layer]:
        """Candidate layers, first to last."""

    def observe(
        self,
        images: Floats,
        *,
        needs: frozenset[str],
        layers: Sequence[str | None] = (None,),
        classes: Classes = None,
        labels: Sequence[str] | None = None,
        target: Target | None = None,
    ) -> list[Evidence]:
        """One forward pass of ``(N, C, *S)`` images, giving what is needed at each layer.

        ``needs`` are Evidence's own names; ``target`` is what gradients are taken of, the logit where absent.
        """

    def tails(self, images: Floats, layer: str | None = None) -> Iterable[Callable[[Floats], Floats]]:
        """For each image, one at a time: from (M, C, *S) features of a layer to the (M, K) scores behind it."""

    def scores(self, images: Floats) -> Floats:
        """(N, K) scores of ``(N, C, *S)`` images."""


class Finisher(Backend, Protocol):
    """A backend that makes the maps of some gradient methods itself, so that nothing large need leave it."""

    def finishes(self, method: Method, target: Target) -> bool:
        """Whether it makes the maps of a method, by gradients of a target."""

    def finished(
        self,
        images: Floats,
        method: Method,
        target: Target,
        *,
        layers: Sequence[str | None] = (None,),
        classes: Classes = None,
        labels: Sequence[str] | None = None,
    ) -> list[Evidence]:
        """Evidence with the raw ``maps`` of each layer."""


class Adapter(Protocol):
    """What an entry point of the group ``camcore.backends`` must give."""

    def accepts(self, model: Any) -> bool:
        """True if this adapter can explain ``model``; must import nothing heavy to say so."""

    def backend(self, model: Any, **options: Any) -> Backend:
        """Open the model."""


def accept_images(images: Any, spec: InputSpec) -> Floats:
    """Check that an array is a batch the model can take; gives a floating (N, C, *S) ndarray.

    Raises
    ------
    InputError
        For whole-number pixels, a missing batch axis, a wrong channel count or size, NaN or infinite pixels.
    """
    array = on_host(images)
    expected = (
        "(" + ", ".join("N" if i == 0 else "any" if n is None else str(n) for i, n in enumerate(spec.shape)) + ")"
    )
    if spec.dtype == "uint8":
        array = _whole_pixels(array)
    elif array.dtype.kind == "f" and array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)  # of another byte order, or longer
    elif array.dtype.kind != "f":
        raise InputError(
            f"images are {array.dtype}; expected floats as the model takes them, {expected}. "
            "For pictures give paths or PIL images with preprocess=..."
        )
    if spec.shape and array.ndim != len(spec.shape):
        cure = " Add a batch axis: images[None]." if array.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"images have shape {array.shape}; the model takes {expected}.{cure}")
    if array.ndim < 3 or len(array) == 0:
        raise InputError(f"images have shape {array.shape}; expected at least one image, (N, C, *S)")
    for axis, (have, want) in enumerate(zip(array.shape[1:], spec.shape[1:] or array.shape[1:], strict=True), start=1):
        if want is not None and have != want:
            given = f"{have} channels" if axis == 1 else f"length {have} on axis {axis}"
            raise InputError(f"images have {given}, the model takes {want}: got {array.shape}, expected {expected}")
    _check_finite(array)
    return array


def _whole_pixels(array: NDArray[Any]) -> NDArray[Any]:
    """For a model that takes bytes: whole numbers in 0..255, of any type."""
    values = np.asarray(array)
    if values.dtype.kind not in "uif" or not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise InputError(
            f"the model takes whole pixels, 0 to 255 (uint8); got {values.dtype} with others among them. For pictures "
            "take a preprocessing that does not scale: preprocess={'scale': 1.0}"
        )
    return values.astype(np.float32)


def on_host(values: Any) -> NDArray[Any]:
    """An array or tensor as a NumPy array, which has no bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype).endswith("bfloat16") else values
    return np.asarray(values)


def _check_finite(array: Floats) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()) or np.isfinite(array).all():  # the sum is the faster question, the second is exact
            return
    wrong = ~np.isfinite(array.reshape(len(array), -1))
    image = int(np.argmax(wrong.any(axis=1)))
    raise InputError(
        f"image {image} has {int(wrong[image].sum())} pixels that are NaN or infinite; replace them first "
        "(np.nan_to_num) or leave the image out"
    )
