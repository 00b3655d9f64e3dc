"""The folder of a training: what is written into it, when, and what of it is the truth after a kill.

``last.safetensors`` is: everything to go on with, in one file that is replaced as a whole at the end of each epoch. All
other files are made of it, or come before it and are written anew.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.labels import escaped
from camcore_tools.training.checkpoints import epoch_file, find_checkpoints, load_tensors, save_tensors
from camcore_tools.training.history import Epoch, as_csv, best_of

if TYPE_CHECKING:
    from torch import Tensor

    from camcore_tools.training.loop import Training

__all__ = ["RunFolder", "products_room"]

_FEW = 3  # checkpoints that stay where all of them would be too large
_SMALL = 1 << 30
_LOCK = ".lock"
_UNFINISHED = ".*.unfinished"  # what a kill leaves of a file that is being written


class RunFolder:
    """Where a training is kept.

    Parameters
    ----------
    path : Path
    keep : int, optional
        How many of the last checkpoints stay, besides the best.
    """

    GRID = "grid.json"
    CONFIG, SPLIT, LEFT_OUT, METRICS = "config.json", "split.json", "left-out.json", "metrics.csv"
    LAST, TRUNK, MODEL, SUMMARY = "last.safetensors", "trunk.safetensors", "model.onnx", "summary.json"
    CHECKPOINTS, RECORDING = "checkpoints", "recording"

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        self.path, self.keep = Path(path), keep

    # ---- before

    def refuse_if_used(self) -> None:
        """A folder with a run in it is not begun anew."""
        for name, what in ((self.CONFIG, "a run"), (self.GRID, "a grid of runs")):
            if (self.path / name).exists():
                raise InputError(f"{self.path} holds {what} already: go on by --resume, or choose another folder")
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        """A folder with something else in it is not written to."""
        if self.path.is_file():
            raise InputError(f"{self.path} is a file; expected a folder to write the run to")
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} - self._traces:
            raise InputError(f"{self.path} is not empty, and what is in it is no run; choose another folder")

    @property
    def _traces(self) -> set[str]:
        """What a run that was killed before it began to train may have left."""
        unfinished = {path.name for path in self.path.glob(_UNFINISHED)}
        return unfinished | {self.SPLIT, self.LEFT_OUT, _LOCK}

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The folder, made if absent and locked: one training at a time; gone again if none was begun.

        Raises
        ------
        InputError
            If it cannot be written to, or another training is at work in it, or it holds something else.
        """
        new = not (self.path / self.CONFIG).exists()
        if new:
            self._refuse_foreign()
        made = self.prepare()
        with self._locked():
            try:
                self._clear()
                yield
            finally:
                if new and not (self.path / self.LAST).exists():
                    self._leave(made)

    def _clear(self) -> None:
        """What a kill left half-written."""
        for folder in (self.path, self.path / self.CHECKPOINTS, self.path / self.RECORDING):
            for path in folder.glob(_UNFINISHED):
                path.unlink(missing_ok=True)

    def _leave(self, made: Sequence[Path]) -> None:
        """As it was before; all of this is from here."""
        shutil.rmtree(self.path / self.RECORDING, ignore_errors=True)
        for name in (self.CONFIG, self.SPLIT, self.LEFT_OUT, self.TRUNK, _LOCK):
            with suppress(OSError):
                (self.path / name).unlink()
        _remove_empty([self.path / self.CHECKPOINTS, *made])

    def prepare(self) -> list[Path]:
        """Make the folder, and try to write into it; gives the folders that were made.

        Raises
        ------
        InputError
            If that is not possible.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(bytes(4096))
        except OSError as error:
            _remove_empty(made)
            reason = error.strerror or error
            raise InputError(
                f"the run cannot be written to {str(self.path)!r}: {reason}; choose a folder that you may write to, on "
                "a disk with room"
            ) from error
        return made

    def need_room(self, size: int) -> None:
        """Refuse to begin what the disk cannot hold."""
        free = shutil.disk_usage(self.path).free
        if free < size:
            raise InputError(
                f"the run needs about {_megabytes(size)} in {str(self.path)!r}, where {_megabytes(free)} are free; "
                "make room, choose another folder, or keep fewer checkpoints (--keep 1)"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock of a killed training is gone with it."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        with (self.path / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another camcore train is at work in {self.path}; wait until it is done") from error
            yield

    # ---- documents

    def write_json(self, name: str, document: Any) -> None:
        """One of the small files, whole or not at all."""
        text = escaped(json.dumps(document, indent=1, ensure_ascii=False))
        write_atomically(self.path / name, lambda file: file.write(text.encode("utf-8", "surrogateescape")))

    # ---- what is learned

    def save_trunk(self, tensors: Mapping[str, Tensor]) -> None:
        """What training does not change; nothing where it changes all."""
        if tensors:
            save_tensors(self.path / self.TRUNK, tensors, {})

    def save(self, training: Training) -> None:
        """After an epoch, or before the first: its checkpoint, then the truth, then what is made of that."""
        tensors, info = training.state()
        if training.history:
            (self.path / self.CHECKPOINTS).mkdir(exist_ok=True)
            epoch = training.history[-1].epoch
            save_tensors(self.path / self.CHECKPOINTS / epoch_file(epoch), training.objective.learned(), _about(info))
        save_tensors(self.path / self.LAST, tensors, info)
        self.tidy(training.history)

    def tidy(self, history: list[Epoch]) -> None:
        """The table, and only those checkpoints that are to stay."""
        text = as_csv(history)
        write_atomically(self.path / self.METRICS, lambda file: file.write(text.encode()))
        best = best_of(history)
        found = find_checkpoints(self.path / self.CHECKPOINTS)
        for checkpoint in found[: -self._kept(found[0].path.stat().st_size)] if found else ():
            if best is None or checkpoint.epoch != best.epoch:
                checkpoint.path.unlink()

    def _kept(self, size: int) -> int:
        """How many of the last stay."""
        if self.keep is not None:
            return self.keep
        return max(_FEW, _SMALL // max(size, 1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What to go on with; None where no epoch was begun."""
        path = self.path / self.LAST
        return load_tensors(path) if path.exists() else None

    def room_needed(self, learned: int, state: int, fixed: int, epochs: int) -> int:
        """Bytes, from those of what is learned, of the whole state and of the frozen part."""
        kept = min(epochs, 1 + self._kept(learned)) * learned
        exported = 2 * (learned + fixed)  # also beside the file, while it is written
        return kept + 2 * state + fixed + exported


_PAGES, _FILM_FRAME, _WATCHED = 3_000_000, 200_000, 400_000  # bytes at most, as a rule, of photographs too


def products_room(frames: int, pictures: int, size: tuple[int, int]) -> int:
    """Bytes of recording, films and pages of so many frames of so many pictures of a size.

    Examples
    --------
    >>> products_room(4, 10, (64, 64)), products_room(151, 12, (224, 224))
    (7881920, 41710976)
    """
    cells = math.prod(min(16, max(1, side // 4)) for side in size)  # of the finest maps, as a rule
    maps = 2 * frames * pictures * cells * 4  # in the growing recording, and in recording.npz
    return _PAGES + frames * _FILM_FRAME + pictures * _WATCHED + maps


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with suppress(OSError):  # it holds something, or was never made
            path.rmdir()


def _about(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": info["step"], "metrics": info["history"][-1]}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
