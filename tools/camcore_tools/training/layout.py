"""Which pictures of which classes a folder holds, whatever else lies in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from camcore.errors import InputError, suggest
from camcore.pictures import SUFFIXES

__all__ = ["PictureFile", "Side", "Sides", "find_sides", "list_side", "pictures_under", "portable"]

TRAINING = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test")  # the first that is there is validated with
_NOT_READ = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng"}
)
_NOT_OURS = frozenset({"@eadir", "__macosx", "lost+found", "$recycle.bin", "system volume information"})
_EXPECTED = "expected a folder for each class, such as {0}/cat/1.jpg and {0}/dog/2.jpg"


class PictureFile(NamedTuple):
    """Where a picture lies, its ``name`` (the path from the folder of class folders on, with ``/``), its class."""

    path: Path
    name: str
    label: int


class Sides(NamedTuple):
    """The folder of class folders to train on, and the one to validate with where it is given."""

    train: Path
    validation: Path | None
    notes: tuple[str, ...] = ()


class Side(NamedTuple):
    """What lies in one folder of class folders; ``left_out`` as (path, reason)."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[PictureFile, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def portable(name: str) -> str:
    """A file's name as every system sorts and writes it: composed (NFC), stray bytes as escapes.

    Examples
    --------
    >>> portable("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name).encode(errors="backslashreplace").decode()


def find_sides(data: str | PathLike[str]) -> Sides:
    """Tell class folders from a folder with ``train`` and ``val``.

    Raises
    ------
    InputError
        If there is no such folder, or it holds no folders.
    """
    data = Path(fspath(data))
    _check_is_folder(data)
    folders = _folders(data)
    if not folders:
        raise InputError(_no_folders(data))
    by_name = {path.name.lower(): path for path in folders}
    train = next((by_name[n] for n in TRAINING if n in by_name), None)
    held = [by_name[n] for n in HELD_OUT if n in by_name]
    if train and held and _folders(train):
        return _given_sides(train, held)
    if train and held and len(folders) <= 1 + len(held):
        raise InputError(f"{train}: no class folders in it; {_EXPECTED.format(train)}, and the same in {held[0].name}")
    return Sides(data, None)


def _given_sides(train: Path, held: Sequence[Path]) -> Sides:
    validation, *others = held
    if not _folders(validation):
        raise InputError(
            f"{validation}: no class folders in it, so it cannot be validated with; {_EXPECTED.format(validation)}, "
            f"or give {train} to have that split into two"
        )
    notes = [f"{other} is left alone; {validation} is validated with" for other in others]
    if validation.name.lower() == "test":
        notes.append(f"{validation} is validated with, as there is no val: it then is no test of what is chosen by it")
    return Sides(train, validation, tuple(notes))


def _check_is_folder(data: Path) -> None:
    if data.is_dir():
        return
    if not data.exists():
        raise InputError(f"{data}: no such folder; {_EXPECTED.format(data)}")
    packed = data.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
    cure = "unpack it, and give the folder" if packed else _EXPECTED.format("DATA")
    raise InputError(f"{data}: is a file; {cure}")


def _no_folders(data: Path) -> str:
    loose = any(_is_picture(path) for path in _entries(data))
    what = "pictures lie in it directly" if loose else "no pictures and no folders in it"
    return f"{data}: {what}; {_EXPECTED.format(data)}"


def list_side(folder: Path, *, known: Sequence[str] | None = None, least: int = 2) -> Side:
    """The pictures of a folder of class folders, in an order that no file system decides.

    Parameters
    ----------
    folder : Path
    known : sequence of str, optional
        The classes, where the training pictures have said them; others are refused.
    least : int
        How many classes there must be.

    Raises
    ------
    InputError
        For an empty class folder, too few or unknown classes, or names that cannot be told apart.
    """
    folders = _class_folders(folder)
    classes = tuple(sorted(folders)) if known is None else tuple(known)
    if known is None:
        _check_count(folder, folders, least)
    else:
        _check_known(folder, folders, known)
    files: list[PictureFile] = []
    left_out: list[tuple[str, str]] = []
    empty: dict[str, list[tuple[str, str]]] = {}
    for label, name in enumerate(classes):
        pictures, bad = pictures_under(folders[name]) if name in folders else ([], [])
        files += [PictureFile(path, _relative(path, folder), label) for path in pictures]
        left_out += bad
        if not pictures:
            empty[name] = bad
    if known is None and empty:
        raise InputError(_are_empty(folder, empty))
    return Side(folder, classes, tuple(files), tuple(left_out), _loose(folder))


def _class_folders(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _folders(folder):
        name = portable(path.name)
        if name != unicodedata.normalize("NFC", path.name):
            raise InputError(f"{folder}: the name of the class folder {path.name!r} is not UTF-8; rename it")
        if name in found:
            raise InputError(
                f"{folder}: two class folders are named {name!r}, and differ only in the bytes of the same letters "
                "(Unicode normal forms); move the pictures of both into one"
            )
        found[name] = path
    return found


def _check_count(folder: Path, folders: Mapping[str, Path], least: int) -> None:
    if not folders:
        raise InputError(_no_folders(folder))
    if len(folders) < least:
        name, path = next(iter(folders.items()))
        inner = _folders(path)
        cure = f"it holds {len(inner)} folders itself: did you mean {path}?" if inner else _EXPECTED.format(folder)
        raise InputError(f"{folder}: one class only, {name!r}, and a classifier needs two or more; {cure}")


def _check_known(folder: Path, folders: Mapping[str, Path], known: Sequence[str]) -> None:
    for name in sorted(set(folders) - set(known)):
        raise InputError(
            f"{folder}: class {name!r} is not among the {len(known)} that are trained on. {suggest(name, known)} "
            "Rename the folder, take it away, or add pictures of the class to train on"
        )


def _are_empty(folder: Path, empty: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    names = ", ".join(map(repr, list(empty)[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    path, reason = next((entry for bad in empty.values() for entry in bad), ("", ""))
    seen = f" (left out: {path}: {reason})" if path else ""
    return (
        f"{folder}: no pictures in the class folder{'s' * (len(empty) > 1)} {names}{seen}; add pictures, or take away "
        "what is no class"
    )


def _loose(folder: Path) -> tuple[str, ...]:
    count = sum(_is_picture(path) for path in _entries(folder))
    what = "1 picture lies" if count == 1 else f"{count} pictures lie"
    return (f"{what} in {folder} itself, outside of the class folders, and will not be used",) * bool(count)


def _relative(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    return name.encode(errors="backslashreplace").decode()


def pictures_under(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """All pictures in a folder and below, links followed, in the order of their portable names; and what is none.

    Hidden files and folders, those that systems leave behind and files of other kinds are passed over in silence;
    pictures of a kind that is not read, and links that lead nowhere, are given as (path, reason).
    """
    pictures: list[Path] = []
    left_out: list[tuple[str, str]] = []
    for path in sorted(_files(folder, {folder.resolve(), *folder.resolve().parents}), key=_order):
        suffix = path.suffix.lower()
        if suffix in _NOT_READ:
            left_out.append((str(path), f"{suffix[1:].upper()} pictures are not read; make it a JPEG or PNG"))
        elif suffix in SUFFIXES and path.is_file():
            pictures.append(path)
        elif suffix in SUFFIXES and not path.exists():
            left_out.append((str(path), "the link leads nowhere"))
    return pictures, left_out


def _order(path: Path) -> tuple[str, str]:
    return portable(path.as_posix()), str(path)


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Each folder is entered once, and never one that holds the folder where the search began."""
    for path in _entries(folder):
        if not path.is_dir():
            yield path
        elif path.name.lower() not in _NOT_OURS and (real := path.resolve()) not in seen:
            seen.add(real)
            yield from _files(path, seen)


def _folders(folder: Path) -> list[Path]:
    return sorted((p for p in _entries(folder) if p.is_dir() and p.name.lower() not in _NOT_OURS), key=_order)


def _entries(folder: Path) -> Iterable[Path]:
    """Without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder}: the folder cannot be read ({error.strerror}); change its permissions, or take it away"
        ) from error


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
