"""The index of a bulk run: a line of JSON for each picture, in the order of the shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.labels import escaped
from camcore.rows import Rows

__all__ = ["encode", "peaks", "records", "whole_lines"]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def records(
    paths: Sequence[str],
    rows: Rows,
    views: NDArray[np.float64],
    *,
    labels: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """What the index says of pictures, but for their places in the shards.

    Parameters
    ----------
    paths : sequence of str
    rows : Rows
    views : (N, 4) ndarray
        The part of each picture that the network saw.
    labels : sequence of str, optional
        The names of all classes.
    """
    points, seen = peaks(rows.maps, views).tolist(), np.round(views, 2).tolist()
    found = []
    for n, path in enumerate(paths):
        if rows.errors[n]:
            found.append({"picture": path, "error": rows.errors[n]})
            continue
        classes = rows.classes[n].tolist()
        record = {"picture": path, "classes": classes}
        record |= {name: _numbers(getattr(rows, name)[n]) for name in ("scores", "probabilities")}
        if labels is not None:
            record["labels"] = [labels[c] for c in classes]
        found.append(record | {"peaks": points[n], "view": seen[n]})
    return found


def peaks(maps: NDArray[np.floating[Any]], views: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each map is largest: the centre of that cell, (N, T, 2) x and y in pixels of the picture."""
    height, width = maps.shape[2:]
    flat = np.where(np.isnan(maps), -np.inf, maps).reshape(*maps.shape[:2], -1).argmax(axis=2)
    shares = np.stack([(flat % width + 0.5) / width, (flat // width + 0.5) / height], axis=2)
    starts, ends = views[:, None, :2], views[:, None, 2:]
    return np.round(starts + shares * (ends - starts), 2)


def encode(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Lines of JSON; stray bytes and hidden characters of file names become escapes that read back as the same name."""
    return escaped("".join(_ENCODER.encode(line) + "\n" for line in lines)).encode()


def whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each record and how many bytes its line has; up to the first that is cut off or no record."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            record = _parsed(line)
            if record is None:
                return
            yield record, len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"picture", "shard", "row"} <= record.keys() else None


def _numbers(values: NDArray[np.floating[Any]]) -> list[float | None]:
    """Seven digits, which is all that float32 has; JSON has neither NaN nor infinity."""
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in values.tolist()]
