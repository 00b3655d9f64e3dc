"""A recording in a folder, to which a training appends, so that a long one needs little memory and survives a kill.

``about.npz`` has what does not change, ``maps.bin`` the raw maps, frame after frame, ``frames.bin`` a row a frame with
the rest of it and a check sum, and ``numbers.jsonl`` a line a step with what was logged. The row is written last: a
frame without a whole row, or whose sum is wrong, is not there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.labels import clean
from camcore.recording.buffer import Curves, Rows, check_frame
from camcore.recording.npz import read_recording, save_recording
from camcore.recording.recording import Recording

__all__ = ["RecordingWriter", "load_recording", "save_recording", "unwritable"]

_ABOUT, _MAPS, _FRAMES, _NUMBERS = "about.npz", "maps.bin", "frames.bin", "numbers.jsonl"
_SAME = ("classes", "pictures", "masks", "labels", "names", "method", "layer", "rectifies")


def load_recording(path: str | PathLike[str]) -> Recording:
    """Read a recording, be it a file or a folder, also one that is still being written.

    Parameters
    ----------
    path : path
        What `save_recording` wrote, or the folder of a `camcore_torch.CamRecorder`.

    Returns
    -------
    Recording
        All whole frames. The maps are mapped into memory, so the files must stay.

    Raises
    ------
    InputError
        If it is missing, damaged, no recording, or one without a single whole frame.
    """
    path = Path(path)
    if not path.is_dir():
        return read_recording(path)
    if not (path / _ABOUT).is_file():
        raise InputError(f"{path}: no recording in this folder; expected {_ABOUT} and {_MAPS} in it")
    try:
        found = _Found(path)
    except OSError as error:
        raise InputError(f"{path}: the recording cannot be read: {error.strerror or error}") from error
    if not len(found.rows):
        raise InputError(f"{path}: the recording has no whole frame yet")
    return found.recording


def unwritable(folder: str | PathLike[str], error: OSError) -> InputError:
    """The answer where a folder cannot be written to."""
    why = os.strerror(error.errno) if error.errno else str(error)
    text = f"the recording cannot be written to {os.fspath(folder)!r}: {why}"
    return InputError(f"{text}; choose a folder that you may write to, on a disk with room")


class RecordingWriter:
    """A recording that grows in a folder; a `camcore.recording.buffer.Store`.

    In memory are the numbers and one row a frame, not the maps. Files are open only while they are written.

    Parameters
    ----------
    folder : path
        Made if absent. One that has a recording of the same pictures, classes, method and layer is continued.
    about : Recording
        What does not change; without frames.

    Raises
    ------
    InputError
        If the folder cannot be written to, or has another recording.
    """

    def __init__(self, folder: str | PathLike[str], about: Recording) -> None:
        self.folder = Path(folder)
        self._about = replace(about, curves={})
        self._waiting: list[bytes] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _ABOUT).exists():
                self._begin()
            found = _Found(self.folder)
            _check_same(self.folder, found.about, self._about)
            for name in (_MAPS, _FRAMES, _NUMBERS):
                (self.folder / name).open("ab").close()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._rows, self._curves, self._numbers_end = found.rows, found.curves, found.numbers_end
        self._cut_file(_FRAMES, found.rows.array.nbytes)
        self._cut_file(_MAPS, len(found.rows) * self._frame_bytes)

    def _begin(self) -> None:
        """First what a folder without ``about.npz`` may have left, then that."""
        for name in (_MAPS, _FRAMES, _NUMBERS):
            write_atomically(self.folder / name, lambda file: None)
        save_recording(self.folder / _ABOUT, self._about)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def last(self) -> int:
        """The step of the last frame; -1 where there is none."""
        return int(self._rows.array["step"][-1]) if len(self) else -1

    @property
    def recording(self) -> Recording:
        """What there is now; the maps are mapped from the file.

        Raises
        ------
        InputError
            If somebody has taken the file away.
        """
        try:
            return _recording(self.folder, self._about, self._rows, self._curves)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: the recording was changed or taken away meanwhile: {error}") from error

    @property
    def _frame_bytes(self) -> int:
        return _frame_bytes(self._about)

    def append(self, step: int, maps: ArrayLike, probabilities: ArrayLike, best: ArrayLike) -> None:
        """A frame: (N, *s) maps, (N,) probabilities and best classes after ``step`` steps.

        Raises
        ------
        InputError
            If it is not of these pictures, or does not come after the last.
        OSError
            If the disk is full. Then the frame is not there, and all before are.
        """
        maps = np.ascontiguousarray(maps, np.float32)
        probabilities, best = np.asarray(probabilities, np.float32), np.asarray(best, np.int64)
        check_frame(self._about, self.last, step, maps, (probabilities, best))
        row = np.zeros((), _row_type(self._about))
        row["step"], row["probabilities"], row["best"] = step, probabilities, best
        row["check"] = _check_sum(row, maps.tobytes())
        self.flush()
        self._write(_MAPS, len(self) * self._frame_bytes, maps.tobytes())
        self._write(_FRAMES, len(self) * row.nbytes, row.tobytes())
        self._rows.append(row)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers after ``step`` steps; written with the next frame or `flush`."""
        self._curves.log(step, numbers)
        self._waiting.append(json.dumps([step, dict(numbers)], separators=(",", ":")).encode() + b"\n")

    def cut(self, step: int) -> None:
        """Drop what came after a step; -1 drops all. Recordings that were read before keep it."""
        self.flush()
        count = int(np.searchsorted(self._rows.array["step"], step, side="right"))
        if count < len(self):
            self._rows.cut(count)
            self._cut_file(_FRAMES, self._rows.array.nbytes)
            self._cut_file(_MAPS, count * self._frame_bytes)
        self._curves.cut(step)
        self._numbers_end = _numbers(self.folder / _NUMBERS, Curves(), step)
        self._cut_file(_NUMBERS, self._numbers_end)

    def flush(self, *, sync: bool = False) -> None:
        """Write the numbers that wait; with ``sync`` to the disk itself, so that a power failure leaves them too."""
        lines = b"".join(self._waiting)
        if lines:
            self._write(_NUMBERS, self._numbers_end, lines)
            self._numbers_end += len(lines)
            self._waiting.clear()
        if sync:
            for name in (_MAPS, _FRAMES, _NUMBERS):
                with (self.folder / name).open("r+b") as file:
                    os.fsync(file.fileno())

    def _write(self, name: str, start: int, data: bytes) -> None:
        """At its place, so that what a failed attempt left is written over."""
        path = self.folder / name
        if path.is_file() and path.stat().st_size < start:
            raise OSError(f"{path} is shorter than what was written; does another run record there?")
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    def _cut_file(self, name: str, length: int) -> None:
        """Keep the beginning, in a new file: the old one may be mapped into somebody's memory."""
        path = self.folder / name
        if path.stat().st_size > length:
            write_atomically(path, lambda file: _copy(path, file, length))


class _Found:
    """What is in a folder, up to the last whole frame and the last whole line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_recording(folder / _ABOUT)
        self.rows = Rows((), _row_type(self.about))
        self.curves = Curves()
        for row in _whole_rows(folder, self.about):
            self.rows.append(row)
        self.numbers_end = _numbers(folder / _NUMBERS, self.curves)

    @property
    def recording(self) -> Recording:
        return _recording(self.folder, self.about, self.rows, self.curves)


def _recording(folder: Path, about: Recording, rows: Rows, curves: Curves) -> Recording:
    table, shape = rows.array, (len(rows), *about.maps.shape[1:])
    maps: NDArray[np.float32] = np.empty(shape, np.float32)
    if maps.size:
        maps = np.memmap(folder / _MAPS, np.dtype("<f4"), "r", 0, shape)
    return replace(
        about,
        steps=table["step"],
        maps=maps,
        probabilities=table["probabilities"],
        best=table["best"],
        curves=curves.read(),
    )


def _row_type(about: Recording) -> np.dtype[Any]:
    count = (len(about.classes),)
    return np.dtype([("step", "<i8"), ("best", "<i8", count), ("probabilities", "<f4", count), ("check", "<u4")])


def _frame_bytes(about: Recording) -> int:
    return int(np.prod(about.maps.shape[1:])) * 4


def _check_sum(row: NDArray[Any], maps: bytes) -> int:
    return zlib.crc32(
        row["probabilities"].tobytes(), zlib.crc32(row["best"].tobytes(), zlib.crc32(maps, int(row["step"])))
    )


def _whole_rows(folder: Path, about: Recording) -> Iterator[NDArray[Any]]:
    kind, size, last = _row_type(about), _frame_bytes(about), -1
    if not all((folder / name).is_file() for name in (_FRAMES, _MAPS)):
        return
    with (folder / _FRAMES).open("rb") as frames, (folder / _MAPS).open("rb") as maps:
        while len(data := frames.read(kind.itemsize)) == kind.itemsize and len(frame := maps.read(size)) == size:
            row = np.frombuffer(data, kind)[0]
            if row["step"] <= last or row["check"] != _check_sum(row, frame):
                return
            last = int(row["step"])
            yield row


def _numbers(path: Path, curves: Curves, most: int | None = None) -> int:
    """Read the whole lines, up to a step; gives where in the file they end."""
    end, last = 0, 0
    if not path.is_file():
        return end
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if entry is None or entry[0] < last or (most is not None and entry[0] > most):
                break
            last, end = entry[0], end + len(line)
            curves.log(*entry)
    return end


def _entry(line: bytes) -> tuple[int, dict[str, float]] | None:
    """A step and its numbers; None for a line that is torn or something else."""
    if not line.endswith(b"\n"):
        return None
    try:
        step, numbers = json.loads(line)
        named = {clean(name): float(value) for name, value in numbers.items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return (step, named) if type(step) is int and 0 <= step < 1 << 62 else None


def _copy(path: Path, file: Any, length: int) -> None:
    with path.open("rb") as source:
        while length > 0 and (part := source.read(min(length, 1 << 20))):
            file.write(part)
            length -= len(part)


def _check_same(folder: Path, found: Recording, wanted: Recording) -> None:
    for name in _SAME:
        have, want = getattr(found, name), getattr(wanted, name)
        if not np.array_equal(have, want):
            raise InputError(
                f"the folder {str(folder)!r} has a recording of {_shown(name, have, want)}; choose another folder, or "
                "delete that one"
            )
    if found.maps.shape[1:] != wanted.maps.shape[1:]:
        raise InputError(
            f"the folder {str(folder)!r} has a recording of maps {found.maps.shape[1:]}, here they are "
            f"{wanted.maps.shape[1:]}; choose another folder, or delete that one"
        )


def _shown(name: str, have: Any, want: Any) -> str:
    if isinstance(have, str):
        return f"another {name}, {have!r} and not {want!r}"
    return f"other {name}" if name != "rectifies" else "another method"
