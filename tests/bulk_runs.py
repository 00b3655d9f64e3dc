"""Folders of bulk runs, written without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camcore.bulk.folder import BulkFolder
from camcore.rows import Rows

SETTINGS = {
    "format": "npz",
    "shard_size": 4,
    "method": "cam",
    "rectifies": False,
    "input_size": [8, 8],
    "labels": ["ä"],
}
PATHS = [f"photos/{n}.jpg" for n in range(11)]


def rows_of(paths: Sequence[str]) -> Rows:
    """The same for the same paths; one in five is bad."""
    count = len(paths)
    rows = Rows.empty((1, 2, 3), ["bad" if int(p[7:-4]) % 5 == 3 else "" for p in paths])
    for n, path in enumerate(paths):
        if not rows.errors[n]:
            rows.maps[n] = np.random.default_rng(int(path[7:-4])).standard_normal((1, 2, 3))
    good = [n for n in range(count) if not rows.errors[n]]
    rows.classes[good], rows.scores[good], rows.probabilities[good] = 0, 1.5, 0.25
    return rows


def write(folder: Path, paths: Sequence[str] = PATHS, *, end: bool = True, **changes: Any) -> BulkFolder:
    with BulkFolder(folder, SETTINGS | changes, labels=["cat"]) as out:
        while out.done + 4 <= len(paths):
            for start in range(out.done, out.done + 4, 2):
                part = paths[start : start + 2]
                out.add(part, rows_of(part), np.tile([0.0, 0, 8, 8], (2, 1)))
        if end and not out.finished:
            if part := paths[out.done :]:
                out.add(part, rows_of(part), np.tile([0.0, 0, 8, 8], (len(part), 1)))
            out.finish()
    return out
