"""The pictures that files, folders and patterns name, one after the other: no list of them all is held.

A million paths as texts: as ``Path`` each would cost as much as to decode a small picture.
"""

# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH118, PTH207

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from os import PathLike, fspath

from camcore.errors import InputError
from camcore.pictures import SUFFIXES

__all__ = ["count_pictures", "walk_pictures"]

_FOLDER, _PICTURE = 1, 2


def walk_pictures(places: Sequence[str | PathLike[str]]) -> Iterator[str]:
    """The paths of pictures, each once, in the order of :func:`camcore.pictures.find_pictures`.

    Of a folder no more than the names of one level at a time are held. A place within a folder that is named as well
    is left out.
    """
    texts = list(dict.fromkeys(fspath(place) for place in places))
    folders = [os.path.join(os.path.abspath(text), "") for text in texts if os.path.isdir(text)]
    for text in texts:
        if not folders or not os.path.abspath(text).startswith(tuple(folders)):
            yield from _pictures_of(text)


def count_pictures(places: Sequence[str | PathLike[str]]) -> int:
    """How many there are.

    Raises
    ------
    InputError
        If a folder or a pattern has none.
    """
    for place in [fspath(place) for place in places]:
        if next(_pictures_of(place), None) is None:
            known = ", ".join(sorted(SUFFIXES))
            what = f"no pictures in this folder ({known})" if os.path.isdir(place) else "the pattern matches no file"
            raise InputError(f"{place}: {what}")
    return sum(1 for _ in walk_pictures(places))


def _pictures_of(place: str) -> Iterator[str]:
    if os.path.isdir(place):
        yield from _walk(os.path.normpath(place))
    elif os.path.exists(place) or not glob.has_magic(place):
        yield os.path.normpath(place)
    else:
        yield from sorted(p for p in glob.iglob(place, recursive=True) if os.path.isfile(p))


def _walk(folder: str) -> Iterator[str]:
    """Depth first, files and folders of a level by name; links to folders are not followed, which could be endless."""
    try:
        with os.scandir(folder) as entries:
            kinds = ((entry.name, _kind(entry)) for entry in entries)
            names = sorted((name, kind) for name, kind in kinds if kind)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for name, kind in names:
        path = os.path.join(folder, name) if folder != "." else name
        if kind == _FOLDER:
            yield from _walk(path)
        else:
            yield path


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.name[entry.name.rfind(".") :].lower() in SUFFIXES and entry.is_file():
        return _PICTURE
    return _FOLDER if entry.is_dir(follow_symlinks=False) else 0
