"""A picture set made many times as large on the disk: every picture as it is, and changed copies beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from camcore.errors import InputError
from camcore.pictures import FORMATS, load_picture
from camcore_tools.console import Progress
from camcore_tools.training.augment import Augmentation, augmented
from camcore_tools.training.layout import HELD_OUT, TRAINING, PictureFile, Side, Sides, find_sides, list_side, portable
from camcore_tools.training.outputs import whole_folder

__all__ = ["Outcome", "augment_folder"]

_THREADS = min(2, os.cpu_count() or 1)  # each holds a picture in single precision
_JPEG = frozenset({".jpg", ".jpeg", ".jfif", ".jpe"})
_COMPRESSED = _JPEG | {".png"}  # whose copies are about as large


@dataclass
class Outcome:
    """What was written: pictures as they were and changed copies of each class, and of how many held-out ones."""

    classes: tuple[str, ...]
    originals: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    held_out: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Task(NamedTuple):
    """A picture, and where it goes: the stems of its changed copies lie beside it."""

    file: PictureFile
    target: Path
    stems: tuple[str, ...]


class _Style(NamedTuple):
    """How a picture file is written, and its copies shall be."""

    suffix: str
    mode: str
    options: dict[str, Any]


def augment_folder(data: Path, out: Path, *, times: int, policy: Augmentation, seed: int) -> Outcome:
    """Write every picture of ``data`` and ``times - 1`` changed copies of it to ``out``.

    The layout, the names and the originals stay what they are; a copy of ``cap/7.jpg`` is ``cap/7~1.jpg``, of the full
    resolution, a JPEG with the tables of the original where that is one and a PNG otherwise. Of a folder with ``train``
    and ``val`` the latter is copied as it is. A picture's changes depend on its name and the seed alone.

    Parameters
    ----------
    data, out : Path
    times : int
        2 or more.
    policy : Augmentation
    seed : int

    Raises
    ------
    InputError
        If ``data`` is no folder of class folders, ``out`` cannot take the pictures, or no picture of a class is read.
    """
    _refuse_inside(data, out)
    sides = find_sides(data)
    train = list_side(sides.train, least=1)
    held = [] if sides.validation is None else [list_side(sides.validation, known=train.classes)]
    outcome = Outcome(train.classes, notes=[*sides.notes, *_not_augmented(data, sides)])
    for part in (train, *held):
        outcome.notes += part.notes
        outcome.left_out += part.left_out
    with whole_folder(out, room=_room(train, held, times)) as folder:
        nested = sides.validation is not None
        tasks = _tasks(train, folder / train.folder.name if nested else folder, times)
        _write_all(tasks, policy, seed, outcome)
        _check_each_class(train, outcome)
        for part in held:
            outcome.held_out = _copy(part, folder / part.folder.name)
    return outcome


def _not_augmented(data: Path, sides: Sides) -> Iterator[str]:
    """Folders beside train and val, such as masks, which would have to be turned and shifted alike."""
    if sides.validation is None:  # then all are classes
        return
    for path in sorted(data.iterdir()):
        if path.is_dir() and path.name.lower() not in (*TRAINING, *HELD_OUT) and not path.name.startswith("."):
            yield f"{path} is left out: only pictures in {sides.train.name} are augmented, masks of them are not"


def _refuse_inside(data: Path, out: Path) -> None:
    if data.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out}: lies in {data}, and would become a part of it; give a folder elsewhere with -o")


def _room(train: Side, held: Sequence[Side], times: int) -> int:
    """Bytes that it will take at least; blurred a little, copies are smaller."""
    once = sum(_length(file.path) for part in (train, *held) for file in part.files)
    copies = sum(_length(file.path) for file in train.files if file.path.suffix.lower() in _COMPRESSED)
    return once + int(0.6 * (times - 1) * copies)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tasks(side: Side, folder: Path, times: int) -> list[_Task]:
    """No copy takes the stem of a picture or of another copy, whatever their suffixes."""
    taken: dict[Path, set[str]] = defaultdict(set)
    for file in side.files:
        taken[file.path.parent].add(file.path.stem.lower())
    tasks = []
    for file in side.files:
        target = folder / file.path.relative_to(side.folder)
        stems = _free(file.path.stem, taken[file.path.parent], times - 1)
        tasks.append(_Task(file, target, tuple(stems)))
    return tasks


def _free(stem: str, taken: set[str], count: int) -> Iterator[str]:
    number = 0
    for _ in range(count):
        number += 1
        while f"{stem}~{number}".lower() in taken:
            number += 1
        taken.add(f"{stem}~{number}".lower())
        yield f"{stem}~{number}"


def _write_all(tasks: Sequence[_Task], policy: Augmentation, seed: int, outcome: Outcome) -> None:
    stop = Event()
    with Progress(len(tasks), "augmenting") as bar, _pool(stop) as pool:
        for task, reason in zip(tasks, pool.map(lambda task: _write(task, policy, seed, stop), tasks), strict=True):
            bar.step()
            name = outcome.classes[task.file.label]
            if reason:
                outcome.left_out.append((str(task.file.path), reason))
            else:
                outcome.originals[name] += 1
                outcome.copies[name] += len(task.stems)


@contextmanager
def _pool(stop: Event) -> Iterator[ThreadPoolExecutor]:
    """Where an error in one thread or an interrupt ends the work of all at the next picture."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _write(task: _Task, policy: Augmentation, seed: int, stop: Event) -> str | None:
    """One picture and its copies; or why it cannot be read."""
    path = task.file.path
    try:
        pixels, style = load_picture(path).pixels, _style(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    try:
        task.target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, task.target)
        for stem, changed in zip(task.stems, _changed(pixels, policy, _seed(task.file.name, seed)), strict=False):
            if stop.is_set():
                break
            _save(changed, task.target.with_name(stem + style.suffix), style)
    except OSError:
        stop.set()
        raise
    return None


def _changed(pixels: NDArray[np.uint8], policy: Augmentation, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Changed copies of a picture, without end."""
    image = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield augmented(image, generator, policy)[0].round_().to(torch.uint8).numpy().transpose(1, 2, 0)


def _seed(name: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{portable(name)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _style(path: Path) -> _Style:
    with Image.open(path, formats=FORMATS) as image:
        mode = "L" if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")) else "RGB"
        profile = None if image.mode in ("CMYK", "LAB") else image.info.get("icc_profile")
        if not isinstance(image, JpegImagePlugin.JpegImageFile):
            return _Style(".png", mode, {"format": "PNG", "icc_profile": profile})
        suffix = path.suffix if path.suffix.lower() in _JPEG else ".jpg"
        tables, sampling = image.quantization, JpegImagePlugin.get_sampling(image)
        options = {"format": "JPEG", "qtables": tables, "subsampling": sampling, "icc_profile": profile}
        return _Style(suffix, mode, options)


def _save(pixels: NDArray[np.uint8], path: Path, style: _Style) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if style.mode == "L" else pixels))
    image.save(path, **style.options)


def _check_each_class(train: Side, outcome: Outcome) -> None:
    for name in train.classes:
        if not outcome.originals[name]:
            raise InputError(f"{train.folder}: no picture of class {name!r} can be read; nothing is written")


def _copy(side: Side, folder: Path) -> int:
    for file in side.files:
        target = folder / file.path.relative_to(side.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
    return len(side.files)
