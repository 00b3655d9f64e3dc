"""How far maps moved while a network was trained, and how much of them lies on the object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.normalize import finite, rectify
from camcore.recording.recording import Curve, Recording
from camcore.resize import interpolation_matrix, resize

__all__ = ["Drift", "chance_inside", "energy_inside", "map_drift", "masks_of_boxes", "peaks_inside", "trends"]

Floats = NDArray[np.floating[Any]]
Real = NDArray[np.float64]
Masks = NDArray[np.bool_]
Kind = TypeVar("Kind", bound=np.generic)


class Drift(NamedTuple):
    """How far the maps of each frame are from others, 0 to 2.

    Attributes
    ----------
    previous : (F,) float64 ndarray
        From the frame before; NaN for the first frame, which has none.
    final : (F,) float64 ndarray
        From the last frame; 0 for the last frame itself.
    """

    previous: Real
    final: Real


def map_drift(maps: Floats) -> Drift:
    """One minus the rank correlation of each map with that of the previous frame and of the final one.

    Spearman's: the correlation of ranks, equal values sharing their mean rank. So it does not change
    when a map is scaled or bent by any rising function: it says whether the map points somewhere else.

    Parameters
    ----------
    maps : (F, N, *s) ndarray
        Raw maps of N pictures in F frames, as in a `Recording`; may be mapped from a file, and is read
        one frame at a time. NaN counts as the smallest value of its map.

    Returns
    -------
    Drift
        Means over the pictures. 0: the same order of cells; 1: no relation; 2: the opposite order.
        A map that is constant has no order: it is 0 from another constant map, and 1 from any other.

    Raises
    ------
    InputError
        Without frames, pictures or cells.

    References
    ----------
    C. Spearman, "The proof and measurement of association between two things", doi:10.2307/1412159

    Examples
    --------
    >>> rising, falling = [[1.0, 2.0, 9.0]], [[3.0, 2.0, 1.0]]
    >>> map_drift(np.array([rising, falling, falling]))
    Drift(previous=array([nan,  2.,  0.]), final=array([2., 0., 0.]))
    """
    maps = _checked(maps)
    last, before = _centred_ranks(maps[-1]), None
    previous, final = np.full(len(maps), np.nan), np.zeros(len(maps))
    for number, frame in enumerate(maps):
        ranks = _centred_ranks(frame)
        final[number] = _apart(ranks, last)
        if before is not None:
            previous[number] = _apart(before, ranks)
        before = ranks
    return Drift(previous, final)


def _checked(maps: Floats) -> Floats:
    if maps.ndim < 3 or 0 in maps.shape:
        raise InputError(f"maps have shape {maps.shape}; expected (frames, pictures, *cells), none of them 0")
    return maps


def _centred_ranks(maps: Floats) -> Real:
    """(N, cells) ranks of each map, shifted to a mean of 0."""
    from scipy.stats import rankdata  # slow to import, and needed only here

    flat = _finite(maps).reshape(len(maps), -1)
    return rankdata(flat, axis=1) - (flat.shape[1] + 1) / 2


def _finite(maps: Floats) -> Floats:
    maps = np.asarray(maps)
    if maps.dtype not in (np.float32, np.float64):
        maps = maps.astype(np.float32)
    return finite(maps, tuple(range(1, maps.ndim)))


def _apart(a: Real, b: Real) -> float:
    """One minus the correlation of ranks, the mean over pictures."""
    spread_a, spread_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    spread = np.sqrt(spread_a * spread_b)
    varied = spread > 0
    together = np.divide((a * b).sum(axis=1), spread, out=np.zeros(len(a)), where=varied)
    together[(spread_a == 0) & (spread_b == 0)] = 1
    return float((1 - np.clip(together, -1, 1)).mean())


def energy_inside(maps: Floats, masks: Masks) -> Real:
    """The share of each map's positive energy that lies inside the object's mask: the energy-based pointing game.

    The map is rectified, resized to the mask and summed.

    Parameters
    ----------
    maps : (N, h, w) or (F, N, h, w) ndarray
        Raw maps or heatmaps; may be mapped from a file, and is read one frame at a time.
    masks : (N, H, W) ndarray of bool
        Where the objects are, of any size. Empty where that is not known.

    Returns
    -------
    (N,) or (F, N) float64 ndarray
        In [0, 1]. A map without positive energy has none inside: 0. NaN where the mask is empty.
        A map that is the same everywhere gets the area of the mask: see `chance_inside`.

    Raises
    ------
    InputError
        If maps and masks do not belong together.

    References
    ----------
    H. Wang et al., "Score-CAM: score-weighted visual explanations for convolutional neural networks",
    arXiv:1910.01279, section 4.3; there the object is a box, and negative values are not taken out.

    Examples
    --------
    >>> energy_inside(np.array([[[3.0, 1.0]]]), np.array([[[True, False]]]))
    array([0.75])
    """
    maps, masks = _paired(maps, masks)
    inside = np.stack([_footprint(mask, maps.shape[-2:]) for mask in masks])
    whole = _footprint(np.ones_like(masks[0]), maps.shape[-2:])
    shares = np.stack([_share(_unit_energy(frame), inside, whole) for frame in _frames(maps)])
    shares[:, ~masks.any(axis=(1, 2))] = np.nan
    return shares.reshape(maps.shape[:-2])


def _paired(maps: Floats, masks: Masks) -> tuple[Floats, Masks]:
    masks = np.asarray(masks)
    if maps.ndim not in (3, 4) or 0 in maps.shape:
        raise InputError(f"maps have shape {maps.shape}; expected (N, h, w) or (F, N, h, w), none of them 0")
    if masks.dtype != np.bool_ or masks.ndim != 3 or 0 in masks.shape or len(masks) != maps.shape[-3]:
        came = f"masks have shape {masks.shape} and type {masks.dtype}"
        raise InputError(f"{came}; expected ({maps.shape[-3]}, H, W) bool, one for each picture")
    return maps, masks


def _frames(maps: Floats) -> Iterator[Floats]:
    return iter(maps if maps.ndim == 4 else maps[None])


def _footprint(mask: Masks, size: Sequence[int]) -> Real:
    """What each cell of a map adds to the sum over a mask, once the map is resized to that mask.

    Resizing is linear, so the sum over the mask of the resized map is a weighted sum of the map's own cells.
    """
    down, across = (interpolation_matrix(old, new, "linear") for old, new in zip(size, mask.shape, strict=True))
    return down.T @ mask @ across


def _unit_energy(maps: Floats) -> Real:
    """The positive part of (N, h, w) maps, with a maximum of 1 so that sums neither over- nor underflow."""
    positive = rectify(_finite(maps)).astype(np.float64)
    peak = positive.max(axis=(1, 2), keepdims=True)
    return np.divide(positive, peak, out=np.zeros_like(positive), where=peak > 0)


def _share(energy: Real, inside: Real, whole: Real) -> Real:
    part, total = (energy * inside).sum(axis=(1, 2)), (energy * whole).sum(axis=(1, 2))
    return np.clip(np.divide(part, total, out=np.zeros_like(part), where=total > 0), 0, 1)


def peaks_inside(maps: Floats, masks: Masks) -> Real:
    """Whether the hottest pixel of each map lies on the object's mask: the pointing game.

    The map is rectified and resized to the mask.

    Parameters
    ----------
    maps, masks
        See `energy_inside`.

    Returns
    -------
    (N,) or (F, N) float64 ndarray
        1 on the mask, 0 beside it. Where several pixels are equally hot, the share of them that lies on the mask.
        A map without a positive value points nowhere: 0. NaN where the mask is empty.

    Raises
    ------
    InputError
        If maps and masks do not belong together.

    References
    ----------
    J. Zhang et al., "Top-down neural attention by excitation backprop", arXiv:1608.00507; there a peak up
    to 15 pixels beside the object counts too.

    Examples
    --------
    >>> peaks_inside(np.array([[[3.0, 1.0]], [[-1.0, 2.0]]]), np.array([[[True, False]], [[True, False]]]))
    array([1., 0.])
    """
    maps, masks = _paired(maps, masks)
    shares = np.stack([_peaks_on(_unit_energy(frame), masks) for frame in _frames(maps)])
    shares[:, ~masks.any(axis=(1, 2))] = np.nan
    return shares.reshape(maps.shape[:-2])


def _peaks_on(energy: Real, masks: Masks) -> Real:
    larger = resize(energy, masks.shape[1:])
    peak = larger.max(axis=(1, 2), keepdims=True)
    hottest = (larger == peak) & (peak > 0)
    found, on_mask = hottest.sum(axis=(1, 2)), (hottest & masks).sum(axis=(1, 2))
    return np.divide(on_mask, found, out=np.zeros(len(masks)), where=found > 0)


def chance_inside(masks: Masks) -> float:
    """What `energy_inside` and `peaks_inside` come to by chance: the mean area of the masks that are not empty.

    NaN if all are empty.

    Examples
    --------
    >>> chance_inside(np.array([[[True, False]], [[False, False]]]))
    0.5
    """
    known = masks[masks.any(axis=(1, 2))]
    return float(known.mean()) if len(known) else float("nan")


def masks_of_boxes(boxes: Sequence[Any] | NDArray[Any], size: Sequence[int]) -> Masks:
    """The masks of boxes.

    Parameters
    ----------
    boxes : sequence, one item a picture
        An item is a box (x0, y0, x1, y1, ...) in pixels, x1 and y1 exclusive; or a sequence of such boxes,
        empty where the object is not known.
    size : (H, W)
        Of the pictures that the boxes are measured in.

    Returns
    -------
    (N, H, W) bool ndarray
        A pixel belongs to a box that holds its centre.

    Raises
    ------
    InputError
        For a box that is not four finite numbers, or holds no pixel of the picture.

    Examples
    --------
    >>> masks_of_boxes([(0, 0, 1, 1), []], (1, 2)).tolist()
    [[[True, False]], [[False, False]]]
    """
    masks = np.zeros((len(boxes), *size), np.bool_)
    for number, item in enumerate(boxes):
        try:
            for box in [item] if len(item) and np.ndim(item[0]) == 0 else item:
                masks[number] |= _mask_of_box(box, size, number)
        except InputError:
            raise
        except (TypeError, ValueError, LookupError) as error:  # something else than boxes
            text = "expected (x0, y0, x1, y1), or a list of such boxes, empty where the object is not known"
            raise InputError(f"boxes of picture {number} are {item!r}; {text}") from error
    return masks


def _mask_of_box(box: Any, size: Sequence[int], number: int) -> Masks:
    values = np.asarray(box, np.float64)[:4]
    if len(values) == 4 and np.isfinite(values).all():
        x0, y0, x1, y1 = values.tolist()
        rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
        found: Masks = ((y0 <= rows) & (rows < y1))[:, None] & ((x0 <= columns) & (columns < x1))
        if found.any():
            return found
    text = f"expected finite (x0, y0, x1, y1) that hold a pixel of {size[1]} x {size[0]}"
    raise InputError(f"box {np.asarray(box).tolist()} of picture {number}: {text}")


def trends(recording: Recording) -> dict[str, Curve]:
    """What the frames of a recording say about the training, as curves over its steps.

    Returns
    -------
    dict of str to Curve
        ``drift_previous`` and ``drift_final``: see `map_drift`. If there are masks, ``energy_inside`` and
        ``peaks_inside``: means over the pictures whose mask is not empty, NaN if all are.
    """
    drift = map_drift(recording.maps)
    values = {"drift_previous": drift.previous, "drift_final": drift.final}
    if recording.masks is not None:
        values["energy_inside"] = _mean(energy_inside(recording.maps, recording.masks))
        values["peaks_inside"] = _mean(peaks_inside(recording.maps, recording.masks))
    return {name: Curve(recording.steps, found) for name, found in values.items()}


def _mean(shares: Real) -> Real:
    """The mean over the pictures whose object is known, for each frame."""
    known = ~np.isnan(shares[0])
    return shares[:, known].mean(axis=1) if known.any() else np.full(len(shares), np.nan)
