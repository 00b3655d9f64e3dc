"""Shards: the maps of about a thousand pictures in one file, .npz or Parquet; its bytes depend on the maps alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, MissingPackage
from camcore.files import write_atomically
from camcore.half import from_half

__all__ = ["FORMATS", "Shard", "read_shard", "rows_of", "shard_name", "write_shard"]

_DTYPES: Mapping[str, type[np.generic]] = {
    "maps": np.float16,
    "scales": np.float32,
    "classes": np.int64,
    "scores": np.float32,
    "probabilities": np.float32,
}


@dataclass(frozen=True, eq=False)
class Shard:
    """Maps of M pictures, T classes each.

    Attributes
    ----------
    maps : (M, T, *s) float16 ndarray
        NaN where there was an error.
    scales : (M, T) float32 ndarray
        ``maps * scales`` are the raw maps.
    classes : (M, T) int64 ndarray
    scores, probabilities : (M, T) float32 ndarray
    """

    maps: NDArray[np.float16]
    scales: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def raw(self, row: int) -> NDArray[np.float32]:
        """(T, *s) raw maps of one picture."""
        return from_half(self.maps[row], self.scales[row])


def shard_name(number: int, kind: str) -> str:
    """The file name of a shard.

    Examples
    --------
    >>> shard_name(12, "npz")
    'maps-00012.npz'
    """
    return f"maps-{number:05d}.{kind}"


def write_shard(path: Path, shard: Shard, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard as its suffix says; ``records`` are the rows of the index.

    Raises
    ------
    OSError
        As `camcore.files.write_atomically`.
    MissingPackage
        If Parquet is asked for and pyarrow is not installed.
    """
    _format(path).write(path, shard, records)


def read_shard(path: Path) -> Shard:
    """Read what :func:`write_shard` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged, or something else.
    """
    try:
        shard = _format(path).read(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a shard of maps that can be read ({error})") from error
    count = shard.maps.shape[:2]
    if shard.maps.ndim < 3 or any(getattr(shard, name).shape != count for name in _DTYPES if name != "maps"):
        raise InputError(f"{path}: its arrays do not belong together; it was not written by camcore explain")
    return shard


def rows_of(path: Path) -> int:
    """How many pictures a shard holds; 0 where it is missing or cannot be read to its end."""
    try:
        return len(read_shard(path).maps)
    except InputError:
        return 0


@dataclass(frozen=True)
class _Format:
    write: Callable[[Path, Shard, Sequence[Mapping[str, Any]]], None]
    read: Callable[[Path], Shard]


def _format(path: Path) -> _Format:
    return FORMATS[path.suffix[1:]]


def _write_npz(path: Path, shard: Shard, records: Sequence[Mapping[str, Any]]) -> None:
    arrays = {name: np.ascontiguousarray(getattr(shard, name), dtype) for name, dtype in _DTYPES.items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _read_npz(path: Path) -> Shard:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return Shard(**{name: np.asarray(archive[name], dtype) for name, dtype in _DTYPES.items()})


def _write_parquet(path: Path, shard: Shard, records: Sequence[Mapping[str, Any]]) -> None:
    """One row a picture; the maps flat, since Parquet has lists of numbers and no arrays."""
    arrow, parquet = _pyarrow()
    count = len(shard.maps)
    columns = {
        "picture": arrow.array([r["picture"].encode(errors="replace").decode() for r in records], arrow.string())
    }
    for name, dtype in _DTYPES.items():
        flat = np.ascontiguousarray(getattr(shard, name), dtype).reshape(count, -1)
        columns[name] = arrow.FixedSizeListArray.from_arrays(arrow.array(flat.ravel()), flat.shape[1])
    columns["labels"] = arrow.array([r.get("labels") for r in records], arrow.list_(arrow.string()))
    columns["error"] = arrow.array([r.get("error") for r in records], arrow.string())
    about = {"camcore.shape": json.dumps(shard.maps.shape[1:])}
    table = arrow.table(columns).replace_schema_metadata(about)

    def write(file: IO[bytes]) -> None:
        parquet.write_table(table, file, compression="zstd")

    write_atomically(path, write)


def _read_parquet(path: Path) -> Shard:
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, columns=list(_DTYPES))
    except arrow.ArrowException as error:
        raise ValueError(str(error)) from error
    shape = tuple(int(n) for n in json.loads((table.schema.metadata or {})[b"camcore.shape"]))
    arrays = {}
    for name, dtype in _DTYPES.items():
        values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        arrays[name] = values.astype(dtype).reshape(-1, *(shape if name == "maps" else shape[:1]))
    return Shard(**arrays)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackage(f"Parquet needs pyarrow ({error}): pip install pyarrow; or take --format npz") from error
    return pyarrow, pyarrow.parquet


FORMATS: Mapping[str, _Format] = {
    "npz": _Format(_write_npz, _read_npz),
    "parquet": _Format(_write_parquet, _read_parquet),
}
