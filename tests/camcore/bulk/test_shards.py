"""Shards: the same bytes for the same maps, read back as they were, and refused where damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from camcore import InputError, MissingPackage
from camcore.bulk.shards import FORMATS, Shard, read_shard, rows_of, shard_name, write_shard
from camcore.half import to_half

RECORDS = [
    *({"picture": f"{n}-\udcff.png", "labels": ["cat", "dog"]} for n in range(3)),
    {"picture": "x", "error": "bad"},
]


def shard(seed: int = 0) -> Shard:
    random = np.random.default_rng(seed)
    maps = random.standard_normal((4, 2, 3, 5)) * np.array([1e-9, 1, 1e9, np.nan])[:, None, None, None]
    numbers = random.standard_normal((2, 4, 2)).astype(np.float32)
    return Shard(*to_half(maps), random.integers(0, 9, (4, 2)), *numbers)


@pytest.mark.parametrize("kind", sorted(FORMATS))
class TestFormats:
    def test_read_back(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / shard_name(0, kind)
        write_shard(path, shard(), RECORDS)
        found = read_shard(path)
        for name in ("maps", "scales", "classes", "scores", "probabilities"):
            np.testing.assert_array_equal(getattr(found, name), getattr(shard(), name))
            assert getattr(found, name).dtype == getattr(shard(), name).dtype
        np.testing.assert_array_equal(
            found.raw(2), shard().maps[2].astype(np.float32) * shard().scales[2][:, None, None]
        )
        assert rows_of(path) == 4
        assert list(tmp_path.iterdir()) == [path]

    def test_the_same_maps_are_the_same_bytes(self, kind: str, tmp_path: Path) -> None:
        paths = [tmp_path / f"{n}.{kind}" for n in range(3)]
        for path, seed in zip(paths, (0, 0, 1), strict=True):
            write_shard(path, shard(seed), RECORDS)
        first, second, other = (path.read_bytes() for path in paths)
        assert first == second
        assert first != other

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
    def test_cut_off(self, kind: str, tmp_path: Path, share: float) -> None:
        path = tmp_path / shard_name(0, kind)
        write_shard(path, shard(), RECORDS)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        assert rows_of(path) == 0
        with pytest.raises(InputError, match="not a shard of maps that can be read"):
            read_shard(path)

    def test_a_byte_that_has_changed(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / shard_name(0, kind)
        write_shard(path, shard(), RECORDS)
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
        assert rows_of(path) in ((0,) if kind == "npz" else (0, 4))  # Parquet has no check sums by default

    def test_missing(self, kind: str, tmp_path: Path) -> None:
        assert rows_of(tmp_path / shard_name(0, kind)) == 0


def test_arrays_that_do_not_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "maps-00000.npz"
    good = shard()
    write_shard(path, Shard(good.maps, good.scales[:3], good.classes, good.scores, good.probabilities), RECORDS)
    with pytest.raises(InputError, match="its arrays do not belong together"):
        read_shard(path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "maps-00000.npz"
    np.savez(path, maps=np.array([{}], object))
    with pytest.raises(InputError, match="not a shard of maps"):
        read_shard(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"Parquet needs pyarrow .*: pip install pyarrow; or take --format npz"):
        write_shard(tmp_path / "maps-00000.parquet", shard(), RECORDS)


def test_parquet_is_read_by_others(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "maps-00000.parquet"
    write_shard(path, shard(), RECORDS)
    rows = parquet.read_table(path).to_pylist()
    assert [row["picture"] for row in rows] == ["0-?.png", "1-?.png", "2-?.png", "x"]
    assert [row["error"] for row in rows] == [None, None, None, "bad"]
    assert rows[0]["labels"] == ["cat", "dog"]
    np.testing.assert_array_equal(np.array(rows[1]["maps"], np.float16), shard().maps[1].ravel())
