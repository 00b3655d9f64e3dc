"""Pictures divided into those to train on and those to validate with: stratified, repeatable, without leaks."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from camcore_tools.training.layout import PictureFile, portable

__all__ = ["Division", "changed_copies", "divide", "same_bytes"]

Ids = NDArray[np.int64]
_COPY = re.compile(r"~\d+$")


class Division(NamedTuple):
    """Numbers of pictures: to ``train`` on, for ``validation``, and changed ``copies`` of the latter, for neither."""

    train: Ids
    validation: Ids
    copies: Ids


def divide(files: Sequence[PictureFile], contents: Sequence[int] | Ids, *, share: float, seed: int) -> Division:
    """Divide the pictures of each class.

    What shows the same stays together: files of the same bytes, and a picture with its changed copies (``cap~3.jpg``
    beside ``cap.jpg``, as ``camcore augment`` writes them), of which only the picture itself is validated with.
    Pictures that lie in several classes are trained on. A picture's place in the order is a hash of its name and the
    seed: neither the file system nor a library's random numbers decide it, and a new picture moves few others.

    Parameters
    ----------
    files : sequence of PictureFile
    contents : (N,) ints
        Equal for files of the same bytes.
    share : float
        Of each class, to train on; above 0 and below 1. Where a class has two pictures or more, each side gets one.
    seed : int
    """
    copies = changed_copies(files)
    groups = _together(len(files), contents, copies)
    sides = np.zeros(len(files), np.bool_)  # whether to validate with
    for chosen in _validated(files, groups, share, seed):
        sides[chosen] = True
    is_copy = np.zeros(len(files), np.bool_)
    is_copy[[number for number, _ in copies]] = True
    return Division(
        np.flatnonzero(~sides),
        np.flatnonzero(sides & ~is_copy),
        np.flatnonzero(sides & is_copy),
    )


def _validated(files: Sequence[PictureFile], groups: Ids, share: float, seed: int) -> Iterable[list[int]]:
    """The groups that are validated with, class after class."""
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups.tolist()):
        members[group].append(number)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for group_members in members.values():
        labels = {files[n].label for n in group_members}
        if len(labels) == 1:
            by_class[labels.pop()].append(group_members)
    for candidates in by_class.values():
        ordered = sorted(candidates, key=lambda group: min(_place(files[n].name, seed) for n in group))
        count = len(ordered)
        yield from ordered[min(max(int(share * count + 0.5), 1), max(count - 1, 1)) :]


def _place(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{portable(name)}".encode(), digest_size=16).digest()


def _together(count: int, contents: Sequence[int] | Ids, pairs: Sequence[tuple[int, int]]) -> Ids:
    """(count,) numbers, equal for pictures that are joined through the same content or a pair."""
    rows = np.array([*range(count), *(one for one, _ in pairs)], np.int64)
    ends = np.array([*(count + np.asarray(contents, np.int64)), *(other for _, other in pairs)], np.int64)
    size = int(max(rows.max(initial=0), ends.max(initial=0))) + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, ends)), shape=(size, size))
    labels: NDArray[Any] = connected_components(graph, directed=False)[1]
    return labels[:count].astype(np.int64)


def changed_copies(files: Sequence[PictureFile]) -> list[tuple[int, int]]:
    """(copy, original) for each ``name~3`` that lies beside ``name``."""
    by_stem = {_stem(file): number for number, file in reversed(list(enumerate(files)))}
    found = []
    for number, file in enumerate(files):
        folder, stem = _stem(file)
        while _COPY.search(stem):
            stem = _COPY.sub("", stem)
            if (original := by_stem.get((folder, stem))) is not None:
                found.append((number, original))
                break
    return found


def _stem(file: PictureFile) -> tuple[str, str]:
    folder, _, name = portable(file.name).rpartition("/")
    return folder, name.rpartition(".")[0]


def same_bytes(paths: Sequence[Path]) -> Ids:
    """(N,) numbers, equal for files of the same bytes; only files of the same length are read."""
    numbers: dict[Hashable, int] = {}
    lengths = [_length(path) for path in paths]
    alone = {length for length, count in zip(*np.unique(lengths, return_counts=True), strict=True) if count == 1}
    keys = [
        length if length in alone else (length, _digest(path, number))
        for number, (path, length) in enumerate(zip(paths, lengths, strict=True))
    ]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path, number: int) -> bytes | int:
    """What cannot be read equals nothing else."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return number
