"""Picture files in: decoded safely, upright, 8-bit RGB; a bad file is an answer, not a traceback."""

from __future__ import annotations

import glob
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

__all__ = ["MAX_PIXELS", "Picture", "find_pictures", "load_mask", "load_picture"]

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_LOSSY = ("JPEG", "MPO", "WEBP")
_ORIENTATION = 0x0112  # the EXIF tag
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises on a damaged file
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)

_Pixels = TypeVar("_Pixels")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: ``pixels`` (H, W, 3) uint8, and the ``name`` under which results are filed."""

    pixels: NDArray[np.uint8]
    name: str
    path: str | None = None


def load_picture(source: Any, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one picture.

    Parameters
    ----------
    source : path, bytes of such a file, PIL image or (H, W, 3) or (H, W) uint8 ndarray
    max_pixels : int
        Larger pictures are refused before they are decoded.

    Raises
    ------
    InputError
        For a missing, empty, damaged or too large file, or one that is no picture.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return Picture(_from_array(source), "image")
    if isinstance(source, (str, PathLike)):
        path = Path(fspath(source))
        return Picture(_read(path, max_pixels, _to_rgb), path.stem, str(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Picture(_decode("the picture", BytesIO(source), max_pixels, _to_rgb), "image")
    if not hasattr(source, "getexif"):
        kind = type(source).__name__
        raise InputError(
            f"a picture cannot be of type {kind}; expected a path, its bytes, a PIL image or a uint8 array"
        )
    name = getattr(source, "filename", "") or "image"
    try:
        return Picture(_to_rgb(source), Path(name).stem)
    except _DAMAGED as error:  # Pillow decodes at the first need
        raise InputError(f"{name}: the picture is damaged and cannot be decoded: {error}") from error


def load_mask(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a picture whose pixels say where something is.

    Parameters
    ----------
    path : path
    max_pixels : int
        Larger pictures are refused before they are decoded.

    Returns
    -------
    (H, W) bool ndarray
        Where the picture is neither black nor transparent; of the lossy formats, JPEG and WebP, where a channel is
        brighter than half.

    Raises
    ------
    InputError
        As :func:`load_picture`.
    """
    return _read(Path(fspath(path)), max_pixels, _to_mask)


def _from_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or pixels.size == 0:
        raise InputError(f"a picture array must be (H, W, 3) or (H, W) uint8, got {pixels.shape} {pixels.dtype}")
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _read(path: Path, max_pixels: int, convert: Callable[[Any], _Pixels]) -> _Pixels:
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a picture file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); expected a picture")
    return _decode(path, path, max_pixels, convert)


def _decode(path: Path | str, file: Path | BytesIO, max_pixels: int, convert: Callable[[Any], _Pixels]) -> _Pixels:
    """``path`` is what errors call it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _quiet_pillow(), Image.open(file, formats=FORMATS) as image:
            _check_size(path, image.size, max_pixels)
            return convert(image)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: more than {max_pixels / 1e6:.0f} megapixels ({error}): reduce the picture first"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture that can be read ({', '.join(FORMATS)})") from error
    except InputError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.strerror:  # of the file and not of what is in it
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        raise InputError(f"{path}: the picture is damaged and cannot be decoded: {error}") from error


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow warns of large pictures, which are refused here by our own limit, and of odd EXIF data."""
    if threading.current_thread() is threading.main_thread():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    else:  # the filters are those of the process: two threads that put them back would put back each other's
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _check_size(path: Path | str, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise InputError(
            f"{path}: {size[0]} x {size[1]} = {pixels / 1e6:.0f} megapixels; "
            f"the limit is {max_pixels / 1e6:.0f}: reduce the picture first"
        )


def _to_rgb(image: Any) -> NDArray[np.uint8]:
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and getattr(image, "format", None) == "PPM")
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        return _from_array(_to_8_bit(np.asarray(image), sixteen=sixteen))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = _on_white(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _to_mask(image: Any) -> NDArray[np.bool_]:
    least = 128 if image.format in _LOSSY else 1
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        return np.nan_to_num(np.asarray(image)) != 0
    values = np.asarray(image.convert("RGBA"))
    return (values[..., :3] >= least).any(axis=2) & (values[..., 3] > 0)


def _upright(image: Any) -> Any:
    """Not ``ImageOps.exif_transpose``: that writes the EXIF data anew, and fails where they are odd."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()  # which turns a TIFF, and strikes the entry out
    turn = turns.get(image.getexif().get(_ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _on_white(image: Any) -> Any:
    from PIL import Image

    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _to_8_bit(values: NDArray[Any], *, sixteen: bool) -> NDArray[np.uint8]:
    """16-bit and float pictures: the full range of the type where it is 16 bits, else the range in use."""
    values = np.nan_to_num(values.astype(np.float64))
    peak = max(float(values.max()), 1e-30)
    high = 65535.0 if sixteen or 255 < peak <= 65535 else 255.0 if 1 < peak <= 255 else peak
    return np.rint(np.clip(values / high, 0, 1) * 255).astype(np.uint8)


def find_pictures(places: Iterable[str | PathLike[str]]) -> list[Path]:
    """The picture files that files, folders (searched to the bottom) and glob patterns name, in a stable order.

    Raises
    ------
    InputError
        If a place holds no picture. A file that is named outright is taken whatever its suffix.
    """
    found: list[Path] = []
    for place in places:
        found += _pictures_of(fspath(place))
    return list(dict.fromkeys(found))


def _pictures_of(place: str) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f"{place}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
        return files
    if path.exists() or not glob.has_magic(place):
        return [path]
    files = sorted(p for p in map(Path, glob.glob(place, recursive=True)) if p.is_file())  # noqa: PTH207 - any root
    if not files:
        raise InputError(f"{place}: the pattern matches no file")
    return files
