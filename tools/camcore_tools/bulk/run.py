"""``camcore explain --workers``: from places to a folder of shards."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from camcore.bulk.decoding import Decoded
from camcore.bulk.folder import BulkFolder
from camcore.bulk.places import count_pictures, walk_pictures
from camcore.columns import image_shape, picture_rule
from camcore.errors import InputError
from camcore.preprocess import Preprocess
from camcore.rows import RowExplainer, Rows
from camcore_tools.bulk.options import check_bulk_options, cores
from camcore_tools.bulk.pool import DecodingPool
from camcore_tools.bulk.settings import settings_of
from camcore_tools.console import Progress, note, print_json, safe
from camcore_tools.explainers import open_explainers

__all__ = ["run_bulk"]

_TOLD = 5  # pictures that are left out and said so on the terminal; the index has all


def run_bulk(args: argparse.Namespace, model: Any) -> int:
    """Explain all pictures; gives the exit status."""
    check_bulk_options(args)
    total = count_pictures(args.images)
    _share_cores(args)
    (explainer,) = open_explainers(args, model).values()
    explainer.batch_size = args.batch_size
    rule, shape = picture_rule(explainer), image_shape(explainer)
    assert shape is not None  # the rule has a size
    session = RowExplainer(explainer, args.classes)
    facts = session.facts(shape)
    settings = settings_of(args, explainer, rule, facts)
    with BulkFolder(Path(args.output), settings, labels=facts.class_names) as folder:
        work = _Work(session, rule, shape, folder, total)
        if folder.done:
            note(f"note: {folder.done} of {total} pictures are done already")
        work.run(walk_pictures(args.images), args)
    return _close(args, folder)


def _share_cores(args: argparse.Namespace) -> None:
    """Those that do not decode explain, unless the user says otherwise."""
    if args.threads is None:
        args.threads = max(1, cores() - args.workers)
    if args.torch:
        import torch

        torch.set_num_threads(args.threads)


def _close(args: argparse.Namespace, folder: BulkFolder) -> int:
    good = folder.done - folder.errors
    if args.json:
        print_json({"folder": args.output, "pictures": folder.done, "errors": folder.errors, **folder.settings})
    else:
        print(f"{good} of {folder.done} pictures explained; maps and index.jsonl in {args.output}")
    return 2 if folder.errors else 0


@dataclass
class _Work:
    """A run: the session, where its rows go, and how many pictures there are."""

    session: RowExplainer
    rule: Preprocess
    shape: tuple[int, ...]
    folder: BulkFolder
    total: int
    told: int = 0

    def run(self, paths: Iterator[str], args: argparse.Namespace) -> None:
        """Explain what is not done yet."""
        self._skip(paths)
        if self.folder.finished:
            return
        before, start = self.folder.errors, time.monotonic()
        with (
            Progress(self.total - self.folder.done, "explaining") as bar,
            DecodingPool(self.rule, args.workers) as pool,
        ):
            for decoded in pool.decode(_batches(paths, args.batch_size, args.shard_size)):
                rows = self._rows(decoded)
                self._tell(rows, bar)
                self.folder.add(decoded.paths, rows, _views(decoded))
                bar.step(len(decoded.paths), f"{(bar.done + len(decoded.paths)) / (time.monotonic() - start):.0f}/s")
            self.folder.finish()
        if self.folder.errors - before > _TOLD:
            note(f"{self.folder.errors - before} pictures were left out; index.jsonl says why")

    def _skip(self, paths: Iterator[str]) -> None:
        """Go past the pictures that are done, which must be the same."""
        for number, done in enumerate(self.folder.pictures_done()):
            now = next(paths, None)
            if now != done:
                what = "there are no more now" if now is None else f"is {safe(now)!r} now"
                raise InputError(
                    f"output folder {self.folder.folder}: the pictures have changed since: number {number} was "
                    f"{safe(done)!r}, {what}; give the same places, or another folder with -o"
                )
        if self.folder.finished and (new := next(paths, None)) is not None:
            raise InputError(
                f"output folder {self.folder.folder}: its run of {self.folder.done} pictures has ended, and there are "
                f"more now, such as {safe(new)!r}; choose another folder with -o"
            )

    def _rows(self, decoded: Decoded) -> Rows:
        rows = Rows.empty(self.session.facts(self.shape).shape, decoded.errors)
        if decoded.places:
            rows.put(decoded.places, self.session(decoded.images(self.rule, self.shape[0])))
        return rows

    def _tell(self, rows: Rows, bar: Progress) -> None:
        for error in filter(None, rows.errors):
            self.told += 1
            if self.told <= _TOLD:
                bar.clear()
                note(f"left out: {safe(error)}")


def _batches(paths: Iterator[str], size: int, shard: int) -> Iterator[list[str]]:
    """None reaches over the end of a shard, so that a run that goes on makes the same batches."""
    inside = 0
    while batch := list(islice(paths, min(size, shard - inside))):
        yield batch
        inside = (inside + len(batch)) % shard


def _views(decoded: Decoded) -> np.ndarray[Any, np.dtype[np.float64]]:
    views = np.zeros((len(decoded.paths), 4))
    views[decoded.places] = decoded.views
    return views
