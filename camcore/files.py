"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO, Any

from numpy.typing import ArrayLike

from camcore.errors import InputError
from camcore.render import as_picture

__all__ = ["save_picture", "write_atomically"]

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
}


def write_atomically(path: str | PathLike[str], write: Callable[[IO[bytes]], object]) -> Path:
    """Call ``write`` with a new file beside ``path``, then rename it; on any error nothing is left behind.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written to; the text names it.
    """
    path = Path(path)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            write(file)
        unfinished.replace(path)
    except OSError as error:
        text = f"cannot write {path.name!r} in the folder {str(path.parent)!r}: {error.strerror or error}"
        raise OSError(error.errno, f"{text}; {_advice(error)}") from error
    finally:
        # Where the folder itself is the trouble this fails as well, and must not hide the first error.
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path


def _advice(error: OSError) -> str:
    if error.errno in _FULL:
        return "make room on that disk, or choose a folder on another one"
    return "choose a folder that exists and that you may write to"


def save_picture(path: str | PathLike[str], picture: ArrayLike) -> None:
    """Write a picture to a file.

    Parameters
    ----------
    path : path
        Ends in .png, .jpg, .jpeg or .webp, which says the format. A file that is there is replaced.
    picture : (H, W[, C]) array_like
        See `camcore.render.as_picture`.

    Raises
    ------
    InputError
        For another suffix, or something that is not a picture.
    OSError
        As `write_atomically`.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"cannot tell the picture format from {path.name!r}; end it in one of {', '.join(_FORMATS)}")
    kind, options = _FORMATS[path.suffix.lower()]
    encoded = BytesIO()
    Image.fromarray(as_picture(picture)).save(encoded, kind, **options)
    write_atomically(path, lambda file: file.write(encoded.getvalue()))
