"""A recording in one ``.npz`` file. What comes from elsewhere is data: nothing in it is run, and sizes are checked."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.labels import clean
from camcore.recording.recording import Curve, Recording

__all__ = ["read_recording", "save_recording"]

_FORMAT, _VERSION = "camcore recording", 1
_CHUNK = 1 << 20
_ABOUT_LIMIT = 64 << 20
_DTYPES: dict[str, type[np.generic]] = {
    "steps": np.int64,
    "maps": np.float32,
    "probabilities": np.float32,
    "best": np.int64,
    "classes": np.int64,
    "pictures": np.uint8,
    "masks": np.bool_,
}
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, RecursionError, zipfile.BadZipFile)


def save_recording(path: str | PathLike[str], recording: Recording) -> Path:
    """Write a recording to one file, not compressed, so that its maps can be mapped into memory.

    Parameters
    ----------
    path : path
        Ends in .npz as a rule; a file that is there is replaced.
    recording : Recording

    Returns
    -------
    Path

    Raises
    ------
    OSError
        As `camcore.files.write_atomically`.
    """
    about = {"format": _FORMAT, "version": _VERSION, "curves": list(recording.curves)}
    about |= {name: getattr(recording, name) for name in ("labels", "names", "method", "layer", "rectifies")}
    text = json.dumps(about, ensure_ascii=False).encode("utf-8", "replace")
    arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(text, np.uint8)}
    for name, dtype in _DTYPES.items():
        value = getattr(recording, name)
        if value is not None:
            arrays[name] = np.ascontiguousarray(value, dtype)
    for number, curve in enumerate(recording.curves.values()):
        arrays[f"curve{number}_steps"] = np.ascontiguousarray(curve.steps, np.int64)
        arrays[f"curve{number}_values"] = np.ascontiguousarray(curve.values, np.float64)
    return write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def read_recording(path: str | PathLike[str]) -> Recording:
    """Read what `save_recording` wrote; the maps stay in the file, mapped into memory.

    Raises
    ------
    InputError
        If the file is missing, damaged, or no recording.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a recording (.npz), or the folder of one")
    with _explaining(path), zipfile.ZipFile(path) as archive:
        parts = _Parts(path, archive)
        about = parts.about()
        arrays: dict[str, Any] = {n: parts.array(n, t) for n, t in _DTYPES.items() if n not in ("maps", "masks")}
        arrays["maps"] = parts.mapped("maps", np.float32)
        arrays["masks"] = parts.array("masks", np.bool_) if "masks" in parts else None
        curves = {
            name: Curve(parts.array(f"curve{n}_steps", np.int64), parts.array(f"curve{n}_values", np.float64))
            for n, name in enumerate(about["curves"])
        }
        recording = Recording(**arrays, **(about | {"curves": curves}))
        _check(recording)
    return recording


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Whatever a damaged file raises, as an answer."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except _DAMAGED as error:
        raise InputError(
            f"{path}: not a recording that can be read ({error}); expected what save_recording or CamRecorder wrote"
        ) from error


class _Parts:
    """The arrays of an archive, none of which is believed before its size is checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def about(self) -> dict[str, Any]:
        """The texts: of the right kinds, and harmless where shown."""
        raw = self.array("about", np.uint8)
        if raw.nbytes > _ABOUT_LIMIT:
            raise InputError(f"its description has {raw.nbytes} bytes; more than {_ABOUT_LIMIT} are not read")
        about = json.loads(raw.tobytes().decode())
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise InputError("an .npz file of something else; expected a recording of camcore")
        if about.get("version") != _VERSION:
            raise InputError(
                f"a recording of version {about.get('version')!r}; this camcore reads {_VERSION}: update camcore"
            )
        return {
            "labels": None if about["labels"] is None else _texts(about["labels"]),
            "names": _texts(about["names"]),
            "curves": _texts(about["curves"]),
            "rectifies": bool(about["rectifies"]),
            **{name: clean(_text(about[name])) for name in ("method", "layer")},
        }

    def array(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """An array, read."""
        with self._opened(name) as file:
            shape = self._shape(name, file, dtype)[0]
            values = np.frombuffer(file.read(), np.uint8 if dtype is np.bool_ else dtype)
            return (values != 0 if dtype is np.bool_ else values).reshape(shape)

    def mapped(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """An array that stays in the file; it is read once, for the check sum."""
        with self._opened(name) as file:
            shape, header = self._shape(name, file, dtype)
            while file.read(_CHUNK):
                pass
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self._path, dtype, "r", self._start(name) + header, shape)

    def _opened(self, name: str) -> IO[bytes]:
        if name not in self:
            raise InputError(f"a recording without {name}")
        if self._infos[name].compress_type != zipfile.ZIP_STORED:
            raise InputError(f"its {name} are compressed, and may be of any size; save_recording does not compress")
        return self._archive.open(self._infos[name])

    def _shape(self, name: str, file: IO[bytes], dtype: type[np.generic]) -> tuple[tuple[int, ...], int]:
        """The shape, and how long the header was."""
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise InputError(f"its {name} are of another format, {version}")
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
        if found != np.dtype(dtype) or fortran:
            raise InputError(f"its {name} are {found}; expected {np.dtype(dtype)}")
        header, size = file.tell(), math.prod(shape) * np.dtype(dtype).itemsize
        if header + size != self._infos[name].file_size:
            raise InputError(f"its {name} should be {shape}, which is not the size of what is there")
        return shape, header

    def _start(self, name: str) -> int:
        """Where in the file the bytes of a part begin: behind its local header (APPNOTE.TXT, 4.3.7)."""
        with self._path.open("rb") as file:
            file.seek(self._infos[name].header_offset)
            local = file.read(30)
        return self._infos[name].header_offset + 30 + sum(int.from_bytes(local[i : i + 2], "little") for i in (26, 28))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"a name in it is {value!r}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise InputError(f"its names are {type(values).__name__}; expected a list")
    return tuple(clean(_text(value)) for value in values)


def _check(recording: Recording) -> None:
    """That the parts belong together."""
    frames, pictures = len(recording.steps), len(recording.classes)
    shapes: Mapping[str, bool] = {
        "steps": _rising(recording.steps),
        "maps": recording.maps.ndim == 4 and recording.maps.shape[:2] == (frames, pictures),
        "probabilities": recording.probabilities.shape == (frames, pictures),
        "best": recording.best.shape == (frames, pictures),
        "classes": recording.classes.ndim == 1 and pictures > 0,
        "pictures": recording.pictures.ndim == 4
        and recording.pictures.shape[::3] == (pictures, 3)
        and recording.pictures.size > 0,
        "names": len(recording.names) in (0, pictures),
        "masks": recording.masks is None or (recording.masks.ndim == 3 and len(recording.masks) == pictures),
        **{name: _rising(c.steps) and c.values.shape == c.steps.shape for name, c in recording.curves.items()},
    }
    wrong = next((name for name, right in shapes.items() if not right), None)
    if wrong is not None:
        raise InputError(f"its {wrong} do not fit the {frames} frames of {pictures} pictures")
    count = math.inf if recording.labels is None else len(recording.labels)
    known = [c for c in (recording.classes, recording.best) if c.size]
    if recording.classes.min() < 0 or any(c.min() < -1 or c.max() >= count for c in known):
        raise InputError(f"a class in it is out of range; it names {count} classes")


def _rising(steps: NDArray[np.int64]) -> bool:
    return steps.ndim == 1 and bool((steps >= 0).all() and (np.diff(steps) > 0).all())
