from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import equal, recording, without_frames

from camcore.errors import InputError
from camcore.recording.npz import read_recording, save_recording


@pytest.mark.parametrize(
    "change", [{}, {"masks": None, "labels": None, "names": (), "rectifies": False}, {"curves": {}}]
)
def test_round_trip(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = replace(recording(), **change)
    path = save_recording(tmp_path / "recording.npz", whole)
    assert equal(read_recording(path), whole)
    with np.load(path, allow_pickle=False) as plain:  # anybody can read it
        np.testing.assert_array_equal(plain["maps"], whole.maps)
    assert [file.name for file in tmp_path.iterdir()] == ["recording.npz"]


def test_no_frames_and_numbers_that_are_none(tmp_path: Path) -> None:
    whole = recording()
    save_recording(tmp_path / "a.npz", without_frames(whole))
    assert equal(read_recording(tmp_path / "a.npz"), without_frames(whole))
    broken = replace(whole, maps=np.full_like(whole.maps, np.nan), best=np.full_like(whole.best, -1))
    save_recording(tmp_path / "b.npz", broken)
    assert equal(read_recording(tmp_path / "b.npz"), broken)


def test_maps_stay_in_the_file(tmp_path: Path) -> None:
    whole = recording(frames=50)
    read = read_recording(save_recording(tmp_path / "a.npz", whole))
    assert isinstance(read.maps, np.memmap)
    assert not read.maps.flags.writeable
    np.testing.assert_array_equal(read.maps, whole.maps)


def test_picked_frames_and_pictures(tmp_path: Path) -> None:
    some = recording().pick([2, 0]).frames([1, 3])
    assert equal(read_recording(save_recording(tmp_path / "a.npz", some)), some)


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, **changes: Any) -> Path:
    """A recording in which parts are something else; None leaves one out."""
    save_recording(path, recording())
    with np.load(path) as archive:
        parts = dict(archive) | changes
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, value in parts.items():
            if value is None:
                continue
            data = io.BytesIO()
            np.save(data, value, allow_pickle=True)
            out.writestr(f"{name}.npy", value if isinstance(value, bytes) else data.getvalue())
    return path


def about(**changes: Any) -> np.ndarray:
    told = {"format": "camcore recording", "version": 1, "curves": ["loss", "accuracy"], "labels": None, "names": []}
    told |= {"method": "cam", "layer": "x", "rectifies": False} | changes
    return np.frombuffer(json.dumps(told).encode(), np.uint8)


def lying(shape: str) -> bytes:
    data = io.BytesIO()
    np.save(data, np.zeros((4, 3, 5, 6), np.float32))
    return data.getvalue().replace(b"(4, 3, 5, 6)", shape.encode())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"maps": None}, "a recording without maps"),
        ({"about": None}, "a recording without about"),
        ({"about": np.frombuffer(b"{", np.uint8)}, "not a recording that can be read"),
        ({"about": np.frombuffer(b"[" * 100_000, np.uint8)}, "not a recording that can be read"),
        ({"about": np.frombuffer(b"[]", np.uint8)}, "something else; expected a recording"),
        ({"about": about(format="other")}, "something else; expected a recording"),
        ({"about": about(version=2)}, "a recording of version 2; this camcore reads 1: update camcore"),
        ({"about": about(names=5)}, "its names are int; expected a list"),
        ({"about": about(labels=[1, 2, 3])}, "a name in it is 1"),
        ({"about": about(labels=["a"])}, "a class in it is out of range; it names 1 classes"),
        ({"about": about(names=["a"])}, "its names do not fit the 4 frames of 3 pictures"),
        ({"about": about(curves=["a", "b", "c"])}, "a recording without curve2_steps"),
        ({"maps": np.zeros((4, 3, 5, 6))}, "its maps are float64; expected float32"),
        ({"maps": np.zeros((3, 3, 5, 6), np.float32)}, "its maps do not fit the 4 frames of 3 pictures"),
        ({"maps": np.asfortranarray(np.zeros((4, 3, 5, 6), np.float32))}, "its maps are float32; expected"),
        ({"maps": lying("(9, 3, 5, 6)")}, r"its maps should be \(9, 3, 5, 6\), which is not the size of what is there"),
        ({"maps": lying("(-1,3, 5, 6)")}, "its maps should be|not a recording"),
        ({"maps": np.array([{}], object)}, "its maps are object; expected float32"),
        ({"steps": np.array([0, 10, 10, 20])}, "its steps do not fit"),
        ({"steps": np.array([-1, 0, 10, 20])}, "its steps do not fit"),
        ({"best": np.full((4, 3), -2)}, "a class in it is out of range"),
        ({"best": np.full((4, 3), 3)}, "a class in it is out of range; it names 3 classes"),
        ({"classes": np.array([0, 1, -1])}, "a class in it is out of range"),
        ({"classes": np.zeros(0, int)}, "do not fit"),
        ({"pictures": np.zeros((3, 8, 9), np.uint8)}, "its pictures do not fit"),
        ({"pictures": np.zeros((3, 0, 9, 3), np.uint8)}, "its pictures do not fit"),
        ({"masks": np.zeros((2, 4, 4), bool)}, "its masks do not fit"),
        ({"curve0_values": np.zeros(3)}, "its loss do not fit"),
    ],
)
def test_what_comes_from_elsewhere_is_not_believed(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = rewritten(tmp_path / "a.npz", **changes)
    with pytest.raises(InputError, match=rf"a\.npz: .*{text}"):
        read_recording(path)


def test_compressed_parts_may_be_of_any_size(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.npz", zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="its about are compressed, and may be of any size"):
        read_recording(path)


def test_names_are_harmless(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.npz", about=about(labels=["a\x1b[2J", "b\nc", "d"], method="m\x07"))
    read = read_recording(path)
    assert read.labels == ("a [2J", "b c", "d")
    assert read.method == "m"


def test_masks_of_other_bytes(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.npz", masks=np.full((3, 4, 4), 2, np.uint8).view(np.bool_))
    masks = read_recording(path).masks
    assert masks is not None
    assert masks.sum() == 3 * 4 * 4


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz: no such file; expected a recording"):
        read_recording(tmp_path / "none.npz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    """Cut off anywhere, or with any byte changed, it is refused, or still a recording that fits together."""
    path = save_recording(tmp_path / "a.npz", recording())
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with suppress(InputError):
        read = read_recording(path)
        assert read.maps.shape == (len(read), *recording().maps.shape[1:])
        read.heatmaps(0)
