"""The right frames in the right order, the picture first, and answers to what was not recorded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drifting import drifting
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camcore.errors import InputError
from camcore.films.filmstrip import _moments, _Strip, filmstrip, save_filmstrip
from camcore.films.montage import enlarged
from camcore.films.theme import BAD, GOOD, GRID
from camcore.recording import Curve
from camcore.render import overlay


def amount(picture: Any, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def holds(strip: Any, part: Any) -> tuple[int, int]:
    """Where a part of a picture is found, exactly."""
    part = part[4:-4, 4:-4]  # without rounded corners
    windows = np.lib.stride_tricks.sliding_window_view(strip, part.shape)[:, :, 0]
    candidates = np.argwhere((windows[:, :, 0, 0] == part[0, 0]).all(axis=-1))
    found = [(int(y), int(x)) for y, x in candidates if np.array_equal(windows[y, x], part)]
    assert len(found) == 1
    return found[0]


class TestPictures:
    def test_the_picture_then_its_overlays_from_left_to_right(self) -> None:
        recording = drifting(frames=5, size=(24, 32))
        strip = filmstrip(recording, picture=1, steps=[0, 20, 40], tile=54, cmap="inferno", alpha=0.6)
        inner = (38, 50)
        small = enlarged(recording.pictures[1], *inner)
        places = [holds(strip, small)]
        for frame in (0, 2, 4):
            heat = recording.heatmaps(frame, inner)[1]
            places.append(holds(strip, overlay(small, heat, cmap="inferno", alpha=0.6)))
        assert len({y for y, _ in places}) == 1
        gaps = np.diff([x for _, x in places])
        assert (gaps > 50).all()
        assert len(set(gaps.tolist())) == 1

    def test_a_row_for_each_picture(self) -> None:
        recording = drifting(frames=3)
        wanted: list[Any] = [2, ["picture-0", 2]]
        one, two = (filmstrip(recording, picture=p, tile=60) for p in wanted)
        assert one.shape[1] == two.shape[1]
        assert two.shape[0] > 1.5 * one.shape[0]
        inner = (42, 56)
        first, second = (holds(two, enlarged(recording.pictures[n], *inner)) for n in (0, 2))
        assert first[1] == second[1]
        assert first[0] < second[0]
        np.testing.assert_array_equal(filmstrip(recording, picture=-1, tile=60), one)
        np.testing.assert_array_equal(filmstrip(recording, picture=np.int64(2), tile=60), one)  # type: ignore[arg-type]

    def test_frames_are_green_or_red(self) -> None:
        recording = drifting(frames=4)
        wrong, right = (filmstrip(recording, steps=[step]) for step in (0, 30))
        assert amount(wrong, BAD) > 500 > amount(wrong, GOOD) == 0
        assert amount(right, GOOD) > 500 > amount(right, BAD) == 0
        assert amount(right, GRID) > 500

    def test_wrong_answers_are_named(self) -> None:
        recording = drifting(frames=2, labels=("cap", "torch", "cube"))
        named = filmstrip(recording, steps=[0])
        other = filmstrip(drifting(frames=2, labels=("cap", "cube", "torch")), steps=[0])
        rows = np.nonzero((named != other).any(axis=(1, 2)))[0]
        assert len(rows)
        assert rows.min() > 0.75 * len(named)  # only below the overlay

    def test_what_is_not_known_is_left_out(self) -> None:
        recording = drifting(
            frames=2, curves={}, labels=None, names=(), probabilities=np.full((2, 3), np.nan, np.float32)
        )
        assert filmstrip(recording).shape[2] == 3

    @pytest.mark.parametrize("size", [(32, 32), (8, 64), (64, 8), (300, 200)])
    @pytest.mark.parametrize("frames", [1, 2, 12])
    def test_any_shape_and_number(self, size: tuple[int, int], frames: int) -> None:
        strip = filmstrip(drifting(frames=frames, size=size), steps=range(0, 10 * frames, 10))
        assert strip.shape[1] < 1900
        assert amount(strip, GOOD if frames > 1 else BAD) > 100

    def test_it_becomes_a_file(self, tmp_path: Path) -> None:
        save_filmstrip(tmp_path / "strip.png", drifting(), picture=1, epochs=[1, 3])
        with Image.open(tmp_path / "strip.png") as image:
            np.testing.assert_array_equal(np.asarray(image), filmstrip(drifting(), picture=1, epochs=[1, 3]))


class TestHeadings:
    def heads(self, curves: dict[str, Curve], *, tile: int = 220, frames: int = 3) -> list[tuple[str, str]]:
        return _Strip(drifting(frames=frames, curves=curves), tile)._heads

    def test_each_frame_of_its_own_epoch(self) -> None:
        loss = Curve(np.array([0, 10, 20]), np.array([1.61, 3.64, 0.5]))
        curves = {"validation_loss": loss} | epochs_of([0, 1, 2], [0, 10, 20])
        assert self.heads(curves) == [
            ("before training", "validation loss 1.61"),
            ("epoch 1", "step 10 · validation loss 3.64"),
            ("epoch 2", "step 20 · validation loss 0.50"),
        ]

    def test_frames_that_share_an_epoch_are_told_apart_by_their_steps(self) -> None:
        curves = epochs_of([1, 1], [15, 40])
        heads = self.heads(curves, frames=4)
        assert [title for title, _ in heads] == [
            "before training",
            "epoch 0 · step 10",
            "epoch 1 · step 20",
            "epoch 1 · step 30",
        ]

    def test_without_epochs_the_step(self) -> None:
        assert [title for title, _ in self.heads({})] == ["before training", "step 10", "step 20"]

    def test_every_heading_fits(self) -> None:
        loss = Curve(np.arange(1, 40), np.ones(39))
        for curves in ({"validation_loss": loss}, {"validation_loss": loss} | epochs_of([1], [15])):
            strip = _Strip(drifting(frames=4, curves=curves), 110)
            left, right = strip._span(1)
            assert max(strip._wide_of(heading) for heading in strip._heads) <= right - left


def epochs_of(values: list[float], steps: list[int]) -> dict[str, Curve]:
    return {"epoch": Curve(np.array(steps), np.array(values, np.float64))}


class TestMoments:
    """Frames at steps 0, 10, 20, 30, 40, 50."""

    def chosen(self, *, steps: Any = None, epochs: Any = None, **changes: Any) -> list[int]:
        recording = drifting(**changes)
        return recording.steps[_moments(recording, steps, epochs)].tolist()

    def test_six_evenly_chosen_ones_by_default(self) -> None:
        assert self.chosen(frames=101) == [0, 200, 400, 600, 800, 1000]
        assert self.chosen(frames=3) == [0, 10, 20]
        assert self.chosen(frames=1) == [0]

    def test_the_nearest_frame_to_a_step_each_once(self) -> None:
        assert self.chosen(steps=[26, 30, 4, 50]) == [30, 0, 50]

    def test_steps_after_the_last_frame_of_a_training_that_goes_on(self) -> None:
        curves = {"loss": Curve(np.arange(1, 58), np.ones(57))}
        assert self.chosen(steps=[57], curves=curves) == [50]

    @given(st.integers(0, 50))
    @settings(deadline=None)
    def test_no_other_frame_is_nearer(self, step: int) -> None:
        found = self.chosen(steps=[step])[0]
        assert abs(found - step) <= 5

    def test_epochs_logged_at_each_step(self) -> None:
        curves = epochs_of([1 + (n - 1) // 25 for n in range(1, 51)], list(range(1, 51)))
        assert self.chosen(epochs=[0, 1, 2], curves=curves) == [0, 20, 50]

    def test_epochs_logged_at_their_ends(self) -> None:
        curves = epochs_of([1, 2], [24, 49])
        assert self.chosen(epochs=[1, 2], curves=curves) == [30, 50]

    def test_parts_of_epochs(self) -> None:
        curves = epochs_of([n / 20 for n in range(1, 51)], list(range(1, 51)))
        assert self.chosen(epochs=[0.5, 1, 2.5], curves=curves) == [10, 20, 50]
        assert self.chosen(epochs=[3], curves=curves) == [50]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"steps": [51]}, "step 51 is not in the recording: it has frames of the steps 0, 10, 20, 30, 40, 50"),
            ({"steps": [-1]}, "step -1 is not in the recording"),
            ({"steps": []}, "no moment is asked for; expected steps or epochs: it has frames of the steps 0, 10"),
            ({"epochs": []}, "no moment is asked for"),
            ({"epochs": [6]}, "epoch 6 is not in the recording: it has epochs 1 to 5"),
            ({"epochs": [-1]}, "epoch -1 is not in the recording"),
            ({"epochs": [1], "steps": [1]}, "both steps and epochs are given; expected one of them"),
        ],
    )
    def test_what_was_not_recorded(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            filmstrip(drifting(), **options)

    @pytest.mark.parametrize("curves", [{}, epochs_of([np.nan], [1])])
    def test_no_epochs_were_logged(self, curves: dict[str, Curve]) -> None:
        with pytest.raises(InputError, match="no curve 'epoch' was logged, so epoch 5 cannot be found; give steps"):
            filmstrip(drifting(curves=curves), epochs=[5])

    def test_many_steps_are_told_shortly(self) -> None:
        with pytest.raises(InputError, match=re.escape("it has frames of the steps 0, 10, 20, 30, ..., 980, 990")):
            filmstrip(drifting(frames=100), steps=[5000])

    @pytest.mark.parametrize(
        ("picture", "text"),
        [
            (3, "picture 3 is not in the recording; it has 3: 0 to 2"),
            ("picture-7", "picture 'picture-7' is not in the recording. Did you mean 'picture-2'"),
            ([], "no picture is asked for; expected numbers from 0 to 2, or names"),
        ],
    )
    def test_pictures_that_are_not_there(self, picture: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            filmstrip(drifting(), picture=picture)

    def test_a_tile_that_is_too_small(self) -> None:
        with pytest.raises(InputError, match="tile is 5; expected at least 32"):
            filmstrip(drifting(), tile=5)
