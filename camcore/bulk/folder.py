"""The folder of a bulk run: shards, index and settings, written so that a killed run goes on where it stopped.

A shard is renamed into place when it is whole, and then its lines are appended to the index. So what counts as done are
the shards that are whole and have all their lines; whatever else a killed run has left is taken away and made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.bulk.index import encode, records, whole_lines
from camcore.bulk.lock import FolderLock
from camcore.bulk.resume import INDEX, RUN, VERSION, differences, read_run, scan
from camcore.bulk.shards import Shard, shard_name, write_shard
from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.half import to_half
from camcore.labels import escaped
from camcore.results import check_writable
from camcore.rows import Rows

__all__ = ["BulkFolder"]


class BulkFolder:
    """Takes the rows of a bulk run in the order of its pictures; use it as a context manager.

    Parameters
    ----------
    folder : path
        Made if absent.
    settings : mapping
        All that changes what is written, as JSON has it; with ``format`` (npz, parquet) and ``shard_size``.
    labels : sequence of str, optional
        The names of all classes.

    Attributes
    ----------
    done : int
        Pictures that need not be explained again.
    errors : int
        How many of all pictures could not be explained.
    finished : bool
        Whether the run had ended before.

    Raises
    ------
    InputError
        If the folder cannot be written to, another process writes to it, or it holds a run of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, labels: Sequence[str] | None = None) -> None:
        self.folder, self.settings, self._labels = Path(folder), dict(settings), labels
        self._size, self._kind = int(settings["shard_size"]), str(settings["format"])
        self.done, self.errors, self.finished = 0, 0, False
        self._finished: Mapping[str, int] | None = None
        self._rows: list[Rows] = []
        self._records: list[dict[str, Any]] = []
        self._held = ExitStack()

    def __enter__(self) -> BulkFolder:
        check_writable(self.folder)
        with ExitStack() as stack:
            stack.enter_context(FolderLock(self.folder))
            self._check_settings()
            for left in self.folder.glob(".*.unfinished"):
                left.unlink()
            self._resume()
            self._index: FileIO = stack.enter_context((self.folder / INDEX).open("ab", buffering=0))
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def pictures_done(self) -> Iterator[str]:
        """The paths of the first ``done`` pictures."""
        for record, _ in islice(whole_lines(self.folder / INDEX), self.done):
            yield str(record["picture"])

    def add(self, paths: Sequence[str], rows: Rows, views: NDArray[np.float64]) -> None:
        """Take the next pictures; a batch must not reach over the end of a shard.

        Raises
        ------
        InputError
            If a shard cannot be written, with what to do.
        """
        if len(self._records) + len(paths) > self._size:
            raise ValueError(f"{len(paths)} pictures reach over the end of a shard of {self._size}")
        self._rows.append(rows)
        self._records += records(paths, rows, views, labels=self._labels)
        self.errors += sum(map(bool, rows.errors))
        if len(self._records) == self._size:
            self._write_shard()

    def finish(self) -> None:
        """Write what is left, and that this is all."""
        if self._records:
            self._write_shard()
        summary = {"pictures": self.done, "errors": self.errors, "shards": -(-self.done // self._size)}
        self._write_run(summary)
        self.finished = True

    def _write_shard(self) -> None:
        name = shard_name(self.done // self._size, self._kind)
        half, scales = to_half(np.concatenate([r.maps for r in self._rows]))
        others = (np.concatenate([getattr(r, n) for r in self._rows]) for n in ("classes", "scores", "probabilities"))
        lines = [self._line(record, name, row) for row, record in enumerate(self._records)]
        try:
            write_shard(self.folder / name, Shard(half, scales, *others), self._records)
            self._append(encode(lines))
        except OSError as error:
            raise InputError(
                f"{error.strerror or error}. {self.done} pictures are done and kept: run the same again to go on"
            ) from error
        self.done += len(lines)
        self._rows, self._records = [], []

    @staticmethod
    def _line(record: dict[str, Any], name: str, row: int) -> dict[str, Any]:
        """The picture first, then where its map lies, then what is known of it."""
        return {"picture": record["picture"], "shard": name, "row": row} | record

    def _append(self, text: bytes) -> None:
        """All lines of a shard, or none."""
        end, left = self._index.tell(), memoryview(text)
        try:
            while left:
                left = left[self._index.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self._index.truncate(end)
            raise OSError(
                error.errno, f"cannot write {INDEX!r} in the folder {str(self.folder)!r}: {error.strerror}; make room"
            ) from error

    def _check_settings(self) -> None:
        path = self.folder / RUN
        if not path.exists():
            strays = [p.name for p in self.folder.iterdir() if p.name == INDEX or p.name.startswith("maps-")]
            if strays:
                raise InputError(
                    f"output folder {self.folder}: holds {min(strays)} but no {RUN}, which says how it was made; "
                    "choose an empty folder with -o"
                )
            self._write_run(None)
            return
        found = read_run(self.folder)
        self._finished = found["finished"]
        wrong = differences(found["settings"], json.loads(json.dumps(self.settings)))
        if wrong:
            raise InputError(
                f"output folder {self.folder}: holds a run with other settings ({'; '.join(wrong)}); take the same to "
                "go on, or another folder with -o"
            )

    def _resume(self) -> None:
        """Find what is done, and take away what is not."""
        total = self._finished["pictures"] if self._finished is not None else None
        found = scan(self.folder / INDEX, self._kind, self._size, total)
        self.done, self.errors = found.done, found.errors
        self.finished = self._finished is not None and total == found.done
        keep = {shard_name(number, self._kind) for number in range(found.shards)}
        for path in self.folder.glob(f"maps-*.{self._kind}"):
            if path.name not in keep:
                path.unlink()
        with (self.folder / INDEX).open("ab") as index:
            index.truncate(found.end)

    def _write_run(self, finished: Mapping[str, int] | None) -> None:
        document = {"camcore bulk": VERSION, "settings": self.settings, "finished": finished}
        text = escaped(json.dumps(document, indent=1, ensure_ascii=False)) + "\n"
        try:
            write_atomically(self.folder / RUN, lambda file: file.write(text.encode(errors="backslashreplace")))
        except OSError as error:
            raise InputError(f"{error.strerror or error}") from error
