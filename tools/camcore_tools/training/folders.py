"""A folder of class folders as pictures to train on and to validate with; whatever is wrong with it is said first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.preprocess import Preprocess
from camcore_tools.training.layout import PictureFile, Side, find_sides, list_side
from camcore_tools.training.pictures import Numbers, Split
from camcore_tools.training.reading import PictureStore
from camcore_tools.training.splitting import divide, same_bytes

__all__ = ["CACHE_BYTES", "FolderPictures", "open_folder"]

CACHE_BYTES = 1 << 30

Ids = NDArray[np.int64]


class FolderPictures:
    """Pictures in files; see :class:`camcore_tools.training.pictures.Pictures`.

    Attributes
    ----------
    paths : tuple of Path
        Where they lie.
    """

    def __init__(
        self, store: PictureStore, files: Sequence[PictureFile], numbers: Ids, classes: tuple[str, ...]
    ) -> None:
        self._store, self._numbers = store, numbers
        self.classes = classes
        self.labels = np.array([files[n].label for n in numbers], np.int64)
        self.names: Sequence[str] = tuple(files[n].name for n in numbers)
        self.paths = tuple(files[n].path for n in numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def pixels(self, numbers: Numbers) -> NDArray[np.uint8]:
        """(n, H, W, 3) of the pictures with those numbers, in that order.

        Raises
        ------
        InputError
            If a picture that did not fit into the memory is gone or has changed.
        """
        return self._store.pixels(self._numbers[np.asarray(numbers, np.int64)])


def open_folder(
    data: str | PathLike[str],
    *,
    rule: Preprocess,
    split: float = 0.9,
    seed: int = 0,
    cache_bytes: int = CACHE_BYTES,
) -> Split:
    """Read all pictures of a folder once, and divide them.

    Parameters
    ----------
    data : path
        A folder with a folder for each class, in which pictures are searched to the bottom; or one with such folders
        named ``train`` and ``val`` (``valid``, ``validation``, ``test``). Classes are in the order of their names.
    rule : Preprocess
        Its geometry gives the pixels, so that ``rule.values(pixels)`` is what the deployed model gets to see. Without
        a size of its own it is 224 x 224.
    split : float
        Share of each class to train on, above 0 and below 1, where the folder itself does not say. A class with two
        pictures or more has one at least on each side; no picture is on both, nor is a copy of it.
    seed : int
        Of the division, which is the same on every system.
    cache_bytes : int
        Pixels up to so many bytes stay in memory; the other pictures are read again whenever they are needed.

    Returns
    -------
    Split
        With the files that were left out and why, and with notes.

    Raises
    ------
    InputError
        If the folder has another layout, holds fewer than two classes, a class without a readable picture or one to
        validate with that is not trained on.

    Examples
    --------
    >>> open_folder("flowers", rule=Preprocess(), split=1.0)
    Traceback (most recent call last):
    camcore.errors.InputError: split is 1.0; expected the share of each class to train on, between 0 and 1, as 0.9
    """
    _check_numbers(split, seed, cache_bytes)
    sides = find_sides(data)
    parts = [list_side(sides.train)]
    if sides.validation is not None:
        parts.append(list_side(sides.validation, known=parts[0].classes))
    files = [file for part in parts for file in part.files]
    store = PictureStore([file.path for file in files], rule, cache_bytes=cache_bytes)
    _check_each_class(parts[0], store.unreadable)
    good = np.array([n for n in range(len(files)) if n not in store.unreadable], np.int64)
    contents = same_bytes([files[n].path for n in good])
    if sides.validation is not None:
        numbers, notes = _given(files, good, contents, len(parts[0].files))
    else:
        numbers, notes = _divided(files, good, contents, split, seed)
    train, validation = (FolderPictures(store, files, chosen, parts[0].classes) for chosen in numbers)
    notes += _not_validated(data, train, validation)
    unreadable = [(str(files[n].path), reason) for n, reason in sorted(store.unreadable.items())]
    left_out = [entry for part in parts for entry in part.left_out] + unreadable
    return Split(train, validation, tuple(left_out), (*sides.notes, *(n for part in parts for n in part.notes), *notes))


def _check_numbers(split: float, seed: int, cache_bytes: int) -> None:
    if isinstance(split, bool) or not isinstance(split, (int, float)) or not 0 < split < 1:
        raise InputError(f"split is {split!r}; expected the share of each class to train on, between 0 and 1, as 0.9")
    for name, value in (("seed", seed), ("cache_bytes", cache_bytes)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least 0")


def _check_each_class(side: Side, unreadable: Mapping[int, str]) -> None:
    total = Counter(file.label for file in side.files)
    bad = Counter(side.files[n].label for n in unreadable if n < len(side.files))
    for label, count in total.items():
        if bad[label] == count:
            first = next(n for n in sorted(unreadable) if side.files[n].label == label)
            raise InputError(
                f"{side.folder}: no picture of class {side.classes[label]!r} can be read ({count} tried; "
                f"{side.files[first].name}: {unreadable[first]})"
            )


def _given(files: Sequence[PictureFile], good: Ids, contents: Ids, count: int) -> tuple[tuple[Ids, Ids], list[str]]:
    """The first ``count`` files are those to train on."""
    training = good < count
    trained = dict(zip(contents[training].tolist(), good[training].tolist(), strict=True))
    leaks = [
        (n, trained[c]) for n, c in zip(good[~training], contents[~training].tolist(), strict=True) if c in trained
    ]
    notes = []
    if leaks:
        there, here = (files[n].path for n in leaks[0])
        notes.append(
            f"{_counted(len(leaks), 'validation picture is', 'validation pictures are')} trained on as well, byte for "
            f"byte, so that the accuracy will look too good: {there} is {here}"
        )
    return (good[training], good[~training]), notes


def _divided(
    files: Sequence[PictureFile], good: Ids, contents: Ids, share: float, seed: int
) -> tuple[tuple[Ids, Ids], list[str]]:
    division = divide([files[n] for n in good], contents, share=share, seed=seed)
    notes = []
    if len(division.copies):
        name = files[good[division.copies[0]]].name
        notes.append(
            f"{_counted(len(division.copies), 'changed copy', 'changed copies')} of pictures to validate with, such as "
            f"{name}, {'is' if len(division.copies) == 1 else 'are'} not used"
        )
    notes += _repeated(files, good, contents)
    return (good[division.train], good[division.validation]), notes


def _repeated(files: Sequence[PictureFile], good: Ids, contents: Ids) -> Iterator[str]:
    first: dict[int, int] = {}
    pairs = [
        (n, first[c]) for n, c in zip(good.tolist(), contents.tolist(), strict=True) if first.setdefault(c, n) != n
    ]
    across = [(n, m) for n, m in pairs if files[n].label != files[m].label]
    if across:
        one, other = (files[n].name for n in across[0])
        yield (
            f"{_counted(len(across), 'picture lies', 'pictures lie')} in another class as well, and all of these are "
            f"trained on: {one} is {other}"
        )
    if len(pairs) > len(across):
        one, other = next((files[n].name, files[m].name) for n, m in pairs if files[n].label == files[m].label)
        yield (
            f"{_counted(len(pairs) - len(across), 'picture is', 'pictures are')} in the folder more than once; copies "
            f"stay on one side of the split: {one} is {other}"
        )


def _not_validated(data: str | PathLike[str], train: FolderPictures, validation: FolderPictures) -> Iterator[str]:
    """A note on classes without pictures to validate with."""
    if not len(validation):
        raise InputError(
            f"{data}: no picture is left to validate with; expected at least one class with two different pictures "
            "that can be read"
        )
    absent = sorted(set(range(len(train.classes))) - set(validation.labels.tolist()))
    if absent:
        names = ", ".join(repr(train.classes[label]) for label in absent[:5])
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        yield f"no picture is left to validate {names}{more} with"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
