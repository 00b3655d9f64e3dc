"""From a picture to what a network takes, and where in the picture that came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.pictures import MAX_PIXELS

__all__ = ["PRESETS", "SIZE", "Preprocess", "View", "preprocess"]

_LONGEST_SIDE = 1 << 14  # of sizes that models tell
Resize = Literal["short", "squash", "none"]
SIZE = (224, 224)  # where neither the model nor the user says one
View = tuple[float, float, float, float]  # x0, y0, x1, y1 of the picture's part that the network saw, in its pixels


@dataclass(frozen=True)
class Preprocess:
    """How pixels become the input: resize, crop, channel order, then ``(pixel * scale - mean) / std``.

    Parameters
    ----------
    scale : float
        Factor on pixels of 0..255.
    mean, std : tuple of float
        One a channel, in the order of ``order``, or one for all.
    order : {"RGB", "BGR"}
    size : (H, W), optional
        What the network takes; known from the model where that is fixed, else 224 x 224.
    resize : {"short", "squash", "none"}
        ``short`` keeps the aspect ratio: the short side becomes ``size / crop``, then the centre is cut out.
        ``squash`` stretches the whole picture to ``size``. ``none`` leaves it as it is.
    crop : float
        Share of the short side that the centre crop keeps.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["RGB", "BGR"] = "RGB"
    size: tuple[int, int] | None = None
    resize: Resize = "short"
    crop: float = 0.875

    def __post_init__(self) -> None:
        if self.resize not in ("short", "squash", "none"):
            raise InputError(f"resize is {self.resize!r}; expected 'short', 'squash' or 'none'")
        if self.order not in ("RGB", "BGR"):
            raise InputError(f"channel order is {self.order!r}; expected 'RGB' or 'BGR'")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        _numbers("scale", self.scale)
        if any(not s > 0 for s in self.std):
            raise InputError(f"std is {self.std}; every value must be above 0")
        if self.size is not None and not _is_size(self.size):
            raise InputError(f"size is {self.size!r}; expected (H, W), whole numbers of at least 1")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop is {self.crop}; expected a share of the short side, above 0 and at most 1")

    def __call__(self, picture: NDArray[np.uint8], *, channels: int = 3) -> tuple[NDArray[np.float32], View]:
        """(H, W, 3) uint8 picture to the (channels, h, w) float32 input and the part of the picture it shows."""
        resized, view = self.fit(picture)
        return self.values(resized, channels=channels), view

    def fit(self, picture: NDArray[np.uint8], *, nearest: bool = False) -> tuple[NDArray[np.uint8], View]:
        """Resize and crop a picture, and nothing else: ``values(fit(picture)[0])`` is what a call gives.

        Parameters
        ----------
        picture : (H, W, 3) or (H, W) uint8 ndarray
        nearest : bool
            Take the nearest pixel and mix none: for masks and indices.

        Returns
        -------
        pixels : (h, w, 3) or (h, w) uint8 ndarray
        view : tuple of float
            x0, y0, x1, y1 of the part of the picture that they show, in its pixels.
        """
        return _fit(picture, self.size or SIZE, self.resize, self.crop, nearest)

    def values(self, picture: NDArray[np.uint8], *, channels: int = 3) -> NDArray[np.float32]:
        """(H, W, 3) uint8 pixels to (channels, H, W) float32 values, without any resizing."""
        pixels = _channels(picture, channels, self.order).astype(np.float32)
        mean, std = (_per_channel(v, channels) for v in (self.mean, self.std))
        result = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(result.transpose(2, 0, 1))

    def to_json(self) -> dict[str, Any]:
        """A plain dict that :meth:`from_json` reads back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """From a dict of untrusted origin; whatever does not fit raises :class:`InputError`."""
        try:
            size = data.get("size")
            if size is not None and max(size[0], size[1]) > _LONGEST_SIDE:
                raise ValueError(f"a size of {size[0]} x {size[1]}; the limit is {_LONGEST_SIDE} a side")
            return cls(
                scale=float(data["scale"]),
                mean=tuple(float(v) for v in data["mean"][:16]),
                std=tuple(float(v) for v in data["std"][:16]),
                order=data["order"],
                size=None if size is None else (int(size[0]), int(size[1])),
                resize=data["resize"],
                crop=float(data["crop"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(f"the preprocessing recorded in the model cannot be read: {error!r}") from error


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise InputError(f"{name} is {values!r}; expected finite numbers, one a channel or one for all")
    return tuple(numbers.tolist())


def _is_size(size: Any) -> bool:
    return isinstance(size, tuple) and len(size) == 2 and all(isinstance(n, (int, np.integer)) and n > 0 for n in size)


PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "imagenet": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "tf": Preprocess(scale=1 / 127.5, mean=(1.0,)),
        "caffe": Preprocess(scale=1.0, mean=(104.0, 117.0, 123.0), order="BGR"),
        "unit": Preprocess(),
    }
)


def preprocess(spec: str | Preprocess | Mapping[str, Any], **changes: Any) -> Preprocess:
    """A preset by name, a :class:`Preprocess`, or a dict of its fields on top of ``unit``; with changes.

    Examples
    --------
    >>> preprocess("tf", size=(96, 96)).size
    (96, 96)
    """
    if isinstance(spec, Preprocess):
        base = spec
    elif isinstance(spec, str):
        if spec not in PRESETS:
            raise InputError(f"preprocessing {spec!r} is not known. {suggest(spec, PRESETS)}")
        base = PRESETS[spec]
    elif not isinstance(spec, Mapping):
        raise InputError(f"preprocessing is of type {type(spec).__name__}; expected a name, a Preprocess or a dict")
    else:
        base = PRESETS["unit"]
        changes = {**spec, **changes}
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    try:
        return replace(base, **fields)
    except TypeError as error:
        raise InputError(f"preprocessing: {error}; known are {', '.join(asdict(base))}") from error


def _fit(
    picture: NDArray[np.uint8], size: tuple[int, int], resize: Resize, crop: float, nearest: bool
) -> tuple[NDArray[np.uint8], View]:
    height, width = picture.shape[:2]
    if resize == "none":
        return picture, (0.0, 0.0, float(width), float(height))
    if resize == "squash":
        return _resize_pixels(picture, size, nearest), (0.0, 0.0, float(width), float(height))
    scale = max(size[0] / crop / height, size[1] / crop / width)
    tall, wide = max(size[0], int(height * scale + 1e-6)), max(size[1], int(width * scale + 1e-6))
    top, left = round((tall - size[0]) / 2), round((wide - size[1]) / 2)
    shown = _resize_pixels(picture, (tall, wide), nearest)[top : top + size[0], left : left + size[1]]
    fx, fy = width / wide, height / tall
    return shown, (left * fx, top * fy, (left + size[1]) * fx, (top + size[0]) * fy)


def _resize_pixels(picture: NDArray[np.uint8], size: tuple[int, int], nearest: bool) -> NDArray[np.uint8]:
    from PIL import Image

    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels would have to be resized to "
            f"{size[1]} x {size[0]}; crop it first, or give resize='squash' or a smaller size"
        )
    resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), resample))


def _channels(picture: NDArray[np.uint8], channels: int, order: str) -> NDArray[np.uint8]:
    if channels == 1:
        luma = picture @ np.array([299, 587, 114])  # whole numbers: halves are halves on every machine
        return np.rint(luma / 1000).astype(np.uint8)[..., None]
    if channels != 3:
        raise InputError(f"the model takes {channels} channels; a picture has 3 (or 1 as grey): give a float array")
    return picture[..., ::-1] if order == "BGR" else picture


def _per_channel(values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
    if len(values) not in (1, channels):
        if channels == 1:  # a colour preset on a grey model: the mean over the colours
            return np.array([np.mean(values)], np.float32)
        raise InputError(f"{len(values)} values of mean or std for {channels} channels; give 1 or {channels}")
    return np.array(values * channels if len(values) == 1 else values, np.float32)
