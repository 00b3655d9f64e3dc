"""The pictures that are watched during a training: for the network, for the eye, and where the object is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.drift import masks_of_boxes
from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.evidence import accept_images
from camcore.inputs import as_list, is_array, stacked
from camcore.labels import clean
from camcore.pictures import Picture, load_picture
from camcore.preprocess import View

__all__ = ["Watched", "watch"]

Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]
_SIDE = 480  # of pictures for the eye: sharp on a page, and a dozen of them are a few megabytes


@dataclass(frozen=True, eq=False)
class Watched:
    """N pictures.

    Attributes
    ----------
    images : (N, C, H, W) float ndarray
        For the network.
    pictures : (N, h, w, 3) uint8 ndarray
        What it sees of them, for the eye.
    names : tuple of str
        N of them, or none.
    masks : (N, h', w') bool ndarray or None
        Where the object is in what it sees.
    """

    images: NDArray[np.floating[Any]]
    pictures: Pixels
    names: tuple[str, ...]
    masks: Masks | None


def watch(
    explainer: Explainer,
    images: Any,
    *,
    pictures: Any = None,
    names: Sequence[str] | None = None,
    masks: Any = None,
    boxes: Any = None,
) -> Watched:
    """Prepare pictures, once and for all.

    Parameters
    ----------
    explainer : Explainer
        Knows what the network takes, and how pictures become that.
    images : (N, C, H, W) array or tensor, or pictures or their paths
        Copied, so that the caller may use them for something else.
    pictures : (N, h, w, 3) uint8 ndarray, or pictures or their paths, optional
        For the eye. Where absent, that part of a picture which the network sees; of an array, its values stretched to
        the range of pixels, each picture by itself.
    names : sequence of str, optional
        Those of the files where absent.
    masks : (N, h, w) bool ndarray, or N of them, optional
        Each covers a whole picture: the one for the eye where ``pictures`` is given, else the one in ``images``.
    boxes : sequence, optional
        Instead of masks: for each picture a box (x0, y0, x1, y1) in its pixels, or a list of them.

    Raises
    ------
    InputError
        If something cannot be used, or is not of N pictures.
    """
    images = stacked(images)
    if is_array(images):
        batch, loaded, views = np.array(accept_images(images, explainer.backend.input)), None, None
    else:
        loaded = [load_picture(picture) for picture in as_list(images)]
        batch, views = explainer.prepare(loaded)
    if batch.ndim != 4:
        raise InputError(f"images have {batch.ndim - 2} spatial axes; only pictures can be watched: (N, C, H, W)")
    scenes = _scenes(batch, loaded, views, pictures)
    for what, given in (("pictures", scenes), ("names", names), ("masks", masks), ("boxes", boxes)):
        if given is not None and len(given) != len(batch):
            raise InputError(f"{len(given)} {what} were given for {len(batch)} images; give one each")
    if names is None and loaded is not None and all(picture.path for picture in loaded):
        names = [picture.name for picture in loaded]
    size = _common_size(scenes, batch.shape[2:])
    shown = np.stack([_resized(scene.shown(scene.pixels), size) for scene in scenes])
    where = _masks(scenes, masks, boxes, size)
    return Watched(batch, shown, tuple(clean(str(name)) for name in names or ()), where)


@dataclass(frozen=True, eq=False)
class _Scene:
    """A picture for the eye, and the part of it that the network sees."""

    pixels: Pixels
    view: View | None = None

    def shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """That part of an (h, w[, 3]) array that covers the whole picture."""
        if self.view is None:
            return values
        fx, fy = values.shape[1] / self.pixels.shape[1], values.shape[0] / self.pixels.shape[0]
        x0, y0, x1, y1 = self.view
        return values[_whole(y0 * fy, y1 * fy, len(values)), _whole(x0 * fx, x1 * fx, values.shape[1])]


def _whole(start: float, stop: float, length: int) -> slice:
    """Whole pixels, at least one."""
    first = min(max(round(start), 0), length - 1)
    return slice(first, max(min(round(stop), length), first + 1))


def _scenes(batch: NDArray[Any], loaded: list[Picture] | None, views: list[View] | None, pictures: Any) -> list[_Scene]:
    if pictures is not None:
        scenes = [_Scene(load_picture(picture).pixels) for picture in _one_by_one(pictures)]
        sizes = {scene.pixels.shape for scene in scenes}
        if len(sizes) > 1:
            raise InputError(f"the pictures for the eye have different sizes {sorted(sizes)}; bring them to one")
        return scenes
    if loaded is not None and views is not None:
        return [_Scene(picture.pixels, view) for picture, view in zip(loaded, views, strict=True)]
    return [_Scene(_stretched(image)) for image in batch]


def _one_by_one(pictures: Any) -> list[Any]:
    return list(pictures) if isinstance(pictures, np.ndarray) and pictures.ndim in (3, 4) else as_list(pictures)


def _stretched(image: NDArray[Any]) -> Pixels:
    """(C, H, W) values as pixels; channels are averaged where they are not three."""
    channels = image if len(image) == 3 else np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    low, high = float(channels.min()), float(channels.max())
    scaled = (channels - low) / (high - low) if high > low else np.zeros_like(channels)
    return np.rint(scaled.transpose(1, 2, 0) * 255).astype(np.uint8)


def _common_size(scenes: Sequence[_Scene], size: tuple[int, ...]) -> tuple[int, int]:
    """As it is where all are of one size; else shaped like the input, and as sharp as the pictures up to a limit."""
    sizes = {scene.shown(scene.pixels).shape[:2] for scene in scenes}
    most = max(max(shape) for shape in sizes)
    if len(sizes) == 1 and most <= _SIDE:
        height, width = sizes.pop()
        return height, width
    if all(scene.view is None for scene in scenes):
        size = next(iter(sizes))
    factor = max(min(most, _SIDE) / max(size), min(1.0, _SIDE / max(size)))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    from PIL import Image

    if pixels.shape[:2] == size:
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _masks(scenes: Sequence[_Scene], masks: Any, boxes: Any, size: tuple[int, int]) -> Masks | None:
    if masks is not None and boxes is not None:
        raise InputError("masks and boxes were given; expected one of them")
    if boxes is not None:
        masks = [masks_of_boxes([b], s.pixels.shape[:2])[0] for b, s in zip(boxes, scenes, strict=True)]
    if masks is None:
        return None
    arrays = [np.asarray(mask) for mask in masks]
    if any(a.ndim != 2 or a.dtype != np.bool_ or a.size == 0 for a in arrays):
        kinds = sorted({f"{a.shape} {a.dtype}" for a in arrays})
        raise InputError(f"masks are {', '.join(kinds[:3])}; expected (N, H, W) bool, true where the object is")
    cut = [scene.shown(array) for scene, array in zip(scenes, arrays, strict=True)]
    return np.stack(cut if len({c.shape for c in cut}) == 1 else [_nearest(c, size) for c in cut])


def _nearest(mask: Masks, size: tuple[int, int]) -> Masks:
    rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, mask.shape, strict=True))
    return mask[rows.astype(int)[:, None], columns.astype(int)]
