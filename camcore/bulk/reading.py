"""What a bulk run has written, read back lazily: one picture at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.bulk.resume import INDEX, read_run
from camcore.bulk.shards import Shard, read_shard
from camcore.errors import InputError
from camcore.explanation import heatmaps_of
from camcore.labels import clean
from camcore.pictures import load_picture
from camcore.regions import pixels_of
from camcore.render import overlay

__all__ = ["BulkPicture", "BulkResults", "read"]


def read(folder: str | PathLike[str]) -> BulkResults:
    """Open the folder of ``camcore explain --workers``; also one that is still being written, as far as it is.

    Raises
    ------
    InputError
        If it is no such folder.

    Examples
    --------
    >>> for picture in read("out"):  # doctest: +SKIP
    ...     if not picture.error:
    ...         print(picture.path, picture.labels, picture.heatmaps().shape)
    """
    return BulkResults(Path(folder))


class BulkResults:
    """The pictures of a bulk run, by their number or their path; ``settings`` says how it was made."""

    def __init__(self, folder: Path) -> None:
        run = read_run(folder)
        self.folder = folder
        self.settings: dict[str, Any] = run["settings"]
        self.finished: bool = run["finished"] is not None
        self._index = folder / INDEX
        self._ends = _line_ends(self._index)
        self._shard = lru_cache(maxsize=2)(self._read_shard)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, which: int | str) -> BulkPicture:
        if isinstance(which, str):
            return self._called(which)
        if not -len(self) <= which < len(self):
            raise IndexError(f"picture {which} of {len(self)}")
        place = which % len(self)
        with self._index.open("rb") as file:
            file.seek(self._ends[place - 1] if place else 0)
            return self._picture(file.readline())

    def __iter__(self) -> Iterator[BulkPicture]:
        with self._index.open("rb") as file:
            for _ in range(len(self)):
                yield self._picture(file.readline())

    def __repr__(self) -> str:
        return f"BulkResults({str(self.folder)!r}: {len(self)} pictures{'' if self.finished else ', not finished'})"

    def _called(self, path: str) -> BulkPicture:
        for picture in self:
            if picture.path == path:
                return picture
        raise InputError(f"{self.folder}: no picture {path!r} in it; paths are as they were given to camcore explain")

    def _picture(self, line: bytes) -> BulkPicture:
        try:
            record = json.loads(line)
            return BulkPicture(str(record["picture"]), record, self.settings, self._shard)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._index}: a line of it cannot be read ({error!r})") from error

    def _read_shard(self, name: str) -> Shard:
        return read_shard(self.folder / Path(name).name)


@dataclass(frozen=True, eq=False)
class BulkPicture:
    """One picture of a bulk run; its maps are read when they are asked for.

    Attributes
    ----------
    path : str
        As it was given.
    record : dict
        Its line of the index.
    """

    path: str
    record: dict[str, Any]
    settings: dict[str, Any] = field(repr=False)
    _shard: Any = field(repr=False)

    @property
    def error(self) -> str:
        """Why it could not be explained; empty where it could."""
        return str(self.record.get("error", ""))

    @property
    def classes(self) -> list[int]:
        return list(self.record.get("classes", ()))

    @property
    def scores(self) -> list[float | None]:
        return list(self.record.get("scores", ()))

    @property
    def probabilities(self) -> list[float | None]:
        return list(self.record.get("probabilities", ()))

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes, where they are known."""
        names = self.record.get("labels")
        return None if names is None else [clean(str(name)) for name in names]

    @property
    def maps(self) -> NDArray[np.float32]:
        """(T, h, w) raw, signed maps.

        Raises
        ------
        InputError
            If the picture could not be explained, with the reason.
        """
        if self.error:
            raise InputError(f"{self.path}: has no maps: {self.error}")
        shard: Shard = self._shard(self.record["shard"])
        return shard.raw(int(self.record["row"]))

    def heatmaps(self, size: tuple[int, int] | None = None, **options: Any) -> NDArray[np.float32]:
        """(T, H, W) in [0, 1], at the size of the network's input where none is given.

        The options are those of :meth:`camcore.Explanation.heatmaps`.
        """
        height, width = size or self.settings["input_size"]
        rectifies = bool(self.settings["rectifies"])
        return heatmaps_of(self.maps[None], (int(height), int(width)), rectifies=rectifies, **options)[0]

    def overlay(self, place: int = 0, **style: Any) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the part of the picture that the network saw, under the heat of one of its classes.

        The options are those of :func:`camcore.render.overlay`. The picture is read from its path.
        """
        seen = load_picture(self.path).pixels[pixels_of(tuple(self.record["view"]))]
        return overlay(seen, self.heatmaps(seen.shape[:2])[place], **style)


def _line_ends(path: Path) -> NDArray[np.int64]:
    """Where the whole lines of a file end: 8 bytes a picture, and no record is read before it is asked for."""
    ends: list[NDArray[np.int64]] = []
    start = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")).astype(np.int64) + (start + 1))
            start += len(chunk)
    return np.concatenate(ends) if ends else np.zeros(0, np.int64)
