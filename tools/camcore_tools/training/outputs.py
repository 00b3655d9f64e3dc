"""A folder of pictures that is written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from camcore.errors import InputError

__all__ = ["whole_folder"]

_PREFIX, _SUFFIX = ".", ".unfinished"


@contextmanager
def whole_folder(out: Path, *, room: int = 0) -> Iterator[Path]:
    """A folder to write into, whose content stands in ``out`` as soon as all is done, and not before.

    Parameters
    ----------
    out : Path
        Is made, or is empty.
    room : int
        Bytes that are needed at least.

    Raises
    ------
    InputError
        Before any work, if ``out`` is a file, holds something, cannot be written to, or its disk is too full; later, if
        the disk turns out to be full. Then nothing is left behind.
    """
    _refuse_if_used(out)
    made = not out.exists()
    unfinished = _unfinished(out)
    try:
        _check_room(out, room)
        yield unfinished
        for path in unfinished.iterdir():
            path.rename(out / path.name)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}), and what there was of it is taken away again; make "
            "room on that disk, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made:
            with suppress(OSError):  # it is not empty if all went well
                out.rmdir()


def _refuse_if_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a new folder to write to")
    left = [path for path in out.iterdir() if not _is_unfinished(path)] if out.is_dir() else []
    if left:
        raise InputError(f"{out}: is not empty; give a new folder, or remove this one first")


def _is_unfinished(path: Path) -> bool:
    """What a run that was killed has left."""
    return path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)


def _unfinished(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in filter(_is_unfinished, list(out.iterdir())):
            shutil.rmtree(path, ignore_errors=True)
        return Path(tempfile.mkdtemp(_SUFFIX, _PREFIX, out))
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror}); choose another folder") from error


def _check_room(out: Path, room: int) -> None:
    free = shutil.disk_usage(out).free
    if free < room:
        raise InputError(
            f"{out}: about {_size(room)} are needed, and {_size(free)} are free on that disk; make room, or choose "
            "another folder"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
