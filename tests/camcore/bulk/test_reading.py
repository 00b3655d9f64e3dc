"""Read back: one picture at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bulk_runs import PATHS, rows_of, write

import camcore
from camcore import InputError


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_maps_of_one_picture(tmp_path: Path, kind: str) -> None:
    write(tmp_path, format=kind)
    results = camcore.bulk.read(tmp_path)
    assert repr(results) == f"BulkResults({str(tmp_path)!r}: 11 pictures)"
    assert [picture.path for picture in results] == PATHS
    for n in (0, 9, -1):
        expected = rows_of(PATHS)
        np.testing.assert_allclose(results[n].maps, expected.maps[n], rtol=1e-3)
        assert (results[n].classes, results[n].scores, results[n].labels) == ([0], [1.5], ["cat"])
        assert (results[n].probabilities, results[n].error) == ([0.25], "")
    assert results["photos/6.jpg"].record["row"] == 2


def test_heatmaps_are_those_of_an_explanation(tmp_path: Path) -> None:
    write(tmp_path)
    picture = camcore.bulk.read(tmp_path)[1]
    assert picture.heatmaps().shape == (1, 8, 8)
    expected = camcore.normalize(camcore.resize(picture.maps, (5, 9)), spatial=2)
    np.testing.assert_allclose(picture.heatmaps((5, 9)), expected, atol=1e-6)


def test_a_picture_with_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    picture = camcore.bulk.read(tmp_path)[3]
    assert (picture.error, picture.classes) == ("bad", [])
    with pytest.raises(InputError, match=r"photos/3.jpg: has no maps: bad"):
        _ = picture.maps


def test_an_overlay_of_what_the_network_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 12)).save(tmp_path / "photos" / "1.jpg")
    drawn = camcore.bulk.read(tmp_path)[1].overlay(cmap="gray")
    assert drawn.shape == (8, 8, 3)
    assert drawn.any()


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    write(tmp_path, end=False)
    results = camcore.bulk.read(tmp_path)
    assert (len(results), results.finished) == (8, False)
    assert repr(results).endswith("8 pictures, not finished)")
    with pytest.raises(IndexError, match="picture 8 of 8"):
        results[8]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run.json in it; expected a folder of camcore explain --workers"):
        camcore.bulk.read(tmp_path)
    write(tmp_path)
    with pytest.raises(InputError, match=r"no picture 'x.jpg' in it"):
        camcore.bulk.read(tmp_path)["x.jpg"]
    (tmp_path / "maps-00000.npz").unlink()
    with pytest.raises(InputError, match="not a shard of maps that can be read"):
        _ = camcore.bulk.read(tmp_path)[0].maps


def test_a_shard_elsewhere_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    index = tmp_path / "a" / "index.jsonl"
    index.write_text(index.read_text().replace("maps-00000.npz", "../b/maps-00000.npz"))
    (tmp_path / "a" / "maps-00000.npz").unlink()
    with pytest.raises(InputError, match="not a shard"):
        _ = camcore.bulk.read(tmp_path / "a")[0].maps


def test_a_damaged_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "index.jsonl").write_text("{\n[]\n")
    for n in (0, 1):
        with pytest.raises(InputError, match="a line of it cannot be read"):
            camcore.bulk.read(tmp_path)[n]
