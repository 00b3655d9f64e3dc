"""Animated files as Pillow reads them: how many frames, how long, which colours, and nothing unfinished left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drifting import drifting
from PIL import Image

from camcore.errors import InputError
from camcore.films.film import frames_of, save_gif, save_webp, write_gif, write_webp

SAVERS = [(save_gif, "film.gif"), (save_webp, "film.webp")]


def durations(path: Path) -> list[int]:
    with Image.open(path) as film:
        found = []
        for n in range(getattr(film, "n_frames", 1)):
            film.seek(n)
            film.load()
            found.append(film.info["duration"])
        return found


def last(path: Path) -> Any:
    with Image.open(path) as film:
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        return np.asarray(film.convert("RGB"), np.float64)


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_ten_frames_a_second_and_the_last_is_held(save: Any, name: str, tmp_path: Path) -> None:
    recording = drifting(frames=7, pictures=2)
    assert save(tmp_path / name, recording, width=320) == tmp_path / name
    assert durations(tmp_path / name) == [100] * 6 + [4000]
    drawn = frames_of(recording, width=320)[-1]
    assert np.abs(last(tmp_path / name) - drawn).mean() < 6


def test_both_are_repeated_endlessly(tmp_path: Path) -> None:
    for save, name in SAVERS:
        save(tmp_path / name, drifting(frames=3, pictures=1), width=240)
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in (tmp_path / "film.gif").read_bytes()
    written = (tmp_path / "film.webp").read_bytes()
    assert written[written.index(b"ANIM") + 12 :][:2] == b"\x00\x00"


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_a_recording_of_one_frame(save: Any, name: str, tmp_path: Path) -> None:
    recording = drifting(frames=1)
    save(tmp_path / name, recording, width=320)
    with Image.open(tmp_path / name) as film:
        assert getattr(film, "n_frames", 1) == 1
        assert np.abs(np.asarray(film.convert("RGB"), float) - frames_of(recording, width=320)[0]).mean() < 6


def test_the_number_of_frames_is_bounded(tmp_path: Path) -> None:
    save_gif(tmp_path / "film.gif", drifting(frames=40, pictures=1), most=5, width=240)
    assert len(durations(tmp_path / "film.gif")) == 5


def test_a_gif_has_one_palette_so_what_does_not_change_does_not_flicker(tmp_path: Path) -> None:
    recording = drifting(frames=6, pictures=2)
    save_gif(tmp_path / "film.gif", recording, width=320)
    film, frames = frames_of(recording, width=320), []
    with Image.open(tmp_path / "film.gif") as image:
        for n in range(6):
            image.seek(n)
            frames.append(np.asarray(image.convert("RGB"), int))
    same = np.all([np.all(film[n] == film[0], axis=2) for n in range(1, 6)], axis=0)
    assert same.mean() > 0.4
    assert all(np.array_equal(frame[same], frames[0][same]) for frame in frames)
    assert len({tuple(color) for frame in frames for color in frame.reshape(-1, 3)}) <= 256


class Counted(Sequence[Any]):
    """A light that walks, and which of its frames were asked for."""

    def __init__(self, count: int) -> None:
        self.total, self.asked = count, list[int]()

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, n: Any) -> Any:
        self.asked.append(n)
        if n >= self.total:
            raise IndexError
        n %= self.total
        picture = np.full((16, 300, 3), 40, np.uint8)
        picture[:, 10 * n : 10 * n + 10] = (250, 200, 90)
        return picture


@pytest.mark.parametrize(("write", "name"), [(write_gif, "a.gif"), (write_webp, "a.webp")])
def test_frames_are_drawn_one_after_the_other(write: Any, name: str, tmp_path: Path) -> None:
    frames = Counted(30)
    write(tmp_path / name, frames)
    assert len(durations(tmp_path / name)) == 30
    assert len(frames.asked) < 30 + 25  # once, but for a sample that the palette is made of


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_another_suffix(save: Any, name: str, tmp_path: Path) -> None:
    suffix = Path(name).suffix
    text = f"the file is called 'film.mp4'; expected a name that ends in {suffix}"
    with pytest.raises(InputError, match=re.escape(text)):
        save(tmp_path / "film.mp4", drifting())


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_nothing_is_left_of_a_film_that_failed(
    save: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    recording = drifting()
    monkeypatch.setattr("camcore.films.frames.Film._draw_header", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path / name, recording, width=240)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_a_missing_folder(save: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write .* choose a folder that exists"):
        save(tmp_path / "no" / name, drifting(frames=2), width=240)


@pytest.mark.parametrize("write", [write_gif, write_webp])
def test_no_frames(write: Any, tmp_path: Path) -> None:
    suffix = ".gif" if write is write_gif else ".webp"
    with pytest.raises(InputError, match="there are no frames; expected at least one"):
        write(tmp_path / f"film{suffix}", [])
