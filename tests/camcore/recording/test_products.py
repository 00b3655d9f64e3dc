from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import equal, recording, without_frames

from camcore.drift import trends
from camcore.errors import InputError
from camcore.recording.files import load_recording
from camcore.recording.products import save_products


def test_everything_is_made(tmp_path: Path) -> None:
    whole = replace(recording(frames=6), best=np.full((6, 3), 1))
    files = save_products(tmp_path / "a" / "b", whole)
    names = ["recording.npz", "drift.json", "training.gif", "training.webp", "timeline.html", "filmstrip.png"]
    names += ["drift.png"]
    assert [file.name for file in files] == names
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(names)
    assert equal(load_recording(files[0]), whole)
    for name in ("training.gif", "training.webp"):
        with Image.open(tmp_path / "a" / "b" / name) as film:
            assert film.n_frames == 6  # type: ignore[attr-defined]
            assert film.info["loop"] == 0
    page = (tmp_path / "a" / "b" / "timeline.html").read_text()
    assert "玩具" in page or "\\u73a9" in page
    assert "<2>" not in page


def test_drift(tmp_path: Path) -> None:
    whole = recording()
    save_products(tmp_path, whole)
    told = json.loads((tmp_path / "drift.json").read_text())
    assert told.pop("steps") == [0, 10, 20, 30]
    expected = trends(whole)
    assert told.keys() == expected.keys()
    assert told["drift_previous"][0] is None
    assert told["drift_previous"][1:] == expected["drift_previous"].values[1:].tolist()
    assert told["energy_inside"] == expected["energy_inside"].values.tolist()


def test_a_training_that_diverged(tmp_path: Path) -> None:
    """NaN maps and losses, and pictures that are taken for nothing."""
    whole = recording()
    maps, best = whole.maps.copy(), whole.best.copy()
    probabilities = whole.probabilities.copy()
    maps[2:], best[2:], probabilities[2:] = np.nan, -1, np.nan
    curves = {n: replace(c, values=np.where(c.steps > 15, np.nan, c.values)) for n, c in whole.curves.items()}
    broken = replace(whole, maps=maps, best=best, probabilities=probabilities, curves=curves)
    assert len(save_products(tmp_path, broken)) == 7
    assert json.loads((tmp_path / "drift.json").read_text())["steps"] == [0, 10, 20, 30]


def test_one_frame_and_nothing_logged(tmp_path: Path) -> None:
    bare = replace(recording(1, 1), curves={}, labels=None, names=(), masks=None)
    assert len(save_products(tmp_path, bare)) == 7


def test_no_frame(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the recording has no frame"):
        save_products(tmp_path, without_frames(recording()))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the recording cannot be written to '.*file/x': .*; choose a folder"):
        save_products(tmp_path / "file" / "x", recording())
