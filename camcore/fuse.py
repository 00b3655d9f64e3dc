"""Several layers' maps as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.normalize import NORMALIZATIONS, normalize
from camcore.resize import resize

__all__ = ["FUSIONS", "Fusion", "check_fusion", "fuse"]

Floats = NDArray[np.floating[Any]]
Fusion = str | Sequence[float]

FUSIONS: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {
        "max": lambda maps: maps.max(axis=0),
        "mean": lambda maps: maps.mean(axis=0),
        "product": lambda maps: maps.prod(axis=0),
    }
)


def fuse(
    maps: Sequence[Floats], how: Fusion = "max", *, scaling: str = "relu-max", size: Sequence[int] | None = None
) -> Floats:
    """Scale the maps of several layers to [0, 1], resize them to one size and join them.

    Maps of different layers have different units, so each is scaled by itself before they are compared.

    Parameters
    ----------
    maps : sequence of (N, T, *s) ndarray
        One a layer, raw.
    how : {"max", "mean", "product"} or sequence of float
        Numbers are the weights of a sum, one a layer.
    scaling : str
        See :func:`camcore.normalize`; ``"tanh"`` is LayerCAM's for shallow layers.
    size : sequence of int, optional
        The largest of each axis where absent.

    Returns
    -------
    (N, T, *size) ndarray
        Not negative; in [0, 1] but for weights that sum to more.

    Raises
    ------
    InputError
        For an unknown way or scaling, not one weight a layer, or maps of different numbers of axes.

    References
    ----------
    P.-T. Jiang et al., "LayerCAM: exploring hierarchical class activation maps", doi:10.1109/TIP.2021.3089943

    Examples
    --------
    >>> fuse([np.array([[[1.0, 2.0]]]), np.array([[[0.0, 8.0, 8.0, 0.0]]])], [0.5, 0.5])
    array([[[0.25  , 0.8125, 0.9375, 0.5   ]]])
    """
    join, spatial = _joined(how, len(maps)), maps[0].ndim - 2
    if any(m.ndim != spatial + 2 for m in maps):
        raise InputError(
            f"maps of {sorted({m.ndim - 2 for m in maps})} spatial axes cannot be fused; give layers laid out alike"
        )
    size = tuple(max(m.shape[2 + axis] for m in maps) for axis in range(spatial)) if size is None else tuple(size)
    return join(np.stack([resize(normalize(m, scaling, spatial=spatial), size) for m in maps]))


def check_fusion(how: Fusion, scaling: str | None, size: str, layers: int) -> None:
    """Raise before any work where the maps of so many layers could not be fused this way."""
    _joined(how, layers)
    if scaling is not None and (not isinstance(scaling, str) or scaling not in NORMALIZATIONS):
        raise InputError(f"scaling {scaling!r} is not known. {suggest(str(scaling), NORMALIZATIONS)}")
    if size not in ("largest", "input"):
        raise InputError(f"fusion_size is {size!r}; expected 'largest' (of the layers' maps) or 'input'")


def _joined(how: Fusion, layers: int) -> Callable[[Floats], Floats]:
    if isinstance(how, str):
        if how not in FUSIONS:
            raise InputError(f"fusion {how!r} is not known. {suggest(how, FUSIONS)} Or give one weight a layer.")
        return FUSIONS[how]
    try:
        weights = np.asarray(how, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"fusion is {how!r}; expected {', '.join(FUSIONS)}, or one number a layer") from error
    if weights.shape != (layers,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(f"fusion weights {how!r} for {layers} layer(s); give one number, not negative, a layer")
    return lambda maps: np.tensordot(weights.astype(maps.dtype), maps, axes=1)
