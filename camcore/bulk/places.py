"""The pictures that files, folders and patterns name, one after the other: no list of them all is held."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path

from camcore.errors import InputError
from camcore.pictures import SUFFIXES

__all__ = ["count_pictures", "walk_pictures"]


def walk_pictures(places: Sequence[str | PathLike[str]]) -> Iterator[str]:
    """The paths of pictures, each once, in the order of :func:`camcore.pictures.find_pictures`.

    Of a folder no more than the names of one level at a time are held. A place within a folder that is named as well
    is left out.
    """
    texts = list(dict.fromkeys(fspath(place) for place in places))
    folders = [Path(text).absolute() for text in texts if Path(text).is_dir()]
    for text in texts:
        if not any(folder in Path(text).absolute().parents for folder in folders):
            yield from _pictures_of(text)


def count_pictures(places: Sequence[str | PathLike[str]]) -> int:
    """How many there are.

    Raises
    ------
    InputError
        If a folder or a pattern has none.
    """
    for place in places:
        if next(_pictures_of(fspath(place)), None) is None:
            path = Path(fspath(place))
            what = f"no pictures in this folder ({', '.join(sorted(SUFFIXES))})" if path.is_dir() else "matches no file"
            raise InputError(f"{place}: {what}")
    return sum(1 for _ in walk_pictures(places))


def _pictures_of(place: str) -> Iterator[str]:
    path = Path(place)
    if path.is_dir():
        yield from _walk(str(path))
    elif path.exists() or not glob.has_magic(place):
        yield str(path)
    else:
        yield from sorted(p for p in glob.iglob(place, recursive=True) if Path(p).is_file())  # noqa: PTH207 - any root


def _walk(folder: str) -> Iterator[str]:
    """Depth first, files and folders of a level by name; links to folders are not followed, which could be endless."""
    try:
        with os.scandir(folder) as entries:
            found = ((e.name, e.is_dir(follow_symlinks=False), e) for e in entries)
            names = sorted((name, folder) for name, folder, e in found if folder or _is_picture(e))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for name, is_folder in names:
        path = os.path.join(folder, name) if folder != "." else name  # noqa: PTH118 - half a million of them
        if is_folder:
            yield from _walk(path)
        else:
            yield path


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()  # noqa: PTH122
