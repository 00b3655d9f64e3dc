"""Frames of one size, drawn when they are asked for, that show the pictures and the curves up to their step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drifting import drifting

from camcore.errors import InputError
from camcore.films.frames import Film, frames_of
from camcore.films.theme import BAD, FAINT, GOOD, LOSSES, SHARES
from camcore.recording import Curve, Recording


def amount(picture: Any, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def test_the_frames_are_a_sequence_of_pictures_of_one_size() -> None:
    film = frames_of(drifting(frames=5), width=480)
    assert isinstance(film, Film)
    assert len(film) == 5
    shapes = {frame.shape for frame in film}
    assert len(shapes) == 1
    assert all(frame.dtype == np.uint8 for frame in film)
    np.testing.assert_array_equal(film[-1], film[4])
    assert len(film[1:3]) == 2
    with pytest.raises(IndexError):
        film[5]


def test_the_curves_grow_and_the_frames_turn_green() -> None:
    film = frames_of(drifting(frames=8), width=480)
    for color in (LOSSES[0], SHARES[0]):
        seen = [amount(film[n], color) for n in (0, 3, 7)]
        assert seen[0] < seen[1] < seen[2]
    assert amount(film[0], BAD) > 200 > amount(film[0], GOOD) == 0
    assert amount(film[7], GOOD) > 200 > amount(film[7], BAD) == 0


def test_a_bar_says_how_far_the_training_is() -> None:
    film = frames_of(drifting(frames=5, curves={}), width=480)
    row = film._margin + round(1.35 * film._font)
    whole = film[0].shape[1] - 2 * film._margin
    done = [int((film[n][row] == FAINT).all(axis=1).sum()) / whole for n in range(5)]
    np.testing.assert_allclose(done, [0, 0.25, 0.5, 0.75, 1], atol=0.01)


def test_two_drawings_of_a_frame_are_the_same() -> None:
    film = frames_of(drifting(), width=480)
    first = film[2]
    film[5]
    np.testing.assert_array_equal(film[2], first)


def test_many_frames_are_thinned_evenly() -> None:
    film = frames_of(drifting(frames=101), most=11, width=240)
    assert len(film) == 11
    assert film._shown.steps.tolist() == list(range(0, 1001, 100))


@pytest.mark.parametrize("width", [240, 480, 1920])
def test_letters_and_lines_follow_the_width(width: int) -> None:
    frame = frames_of(drifting(pictures=6), width=width)[0]
    assert 0.85 * width < frame.shape[1] <= width + 2
    assert frame.shape[0] < 0.75 * width


CURVES = drifting().curves


@pytest.mark.parametrize("count", [1, 24])
@pytest.mark.parametrize("size", [(32, 32), (8, 64), (64, 8)])
@pytest.mark.parametrize("curves", [{}, {"loss": CURVES["loss"]}, {"accuracy": CURVES["accuracy"]}])
def test_any_recording_is_drawn(count: int, size: tuple[int, int], curves: dict[str, Curve]) -> None:
    film = frames_of(drifting(frames=2, pictures=count, size=size, curves=curves, masks=None), width=400)
    assert {frame.shape for frame in film} == {film[0].shape}
    assert amount(film[1], GOOD) > 40


def test_one_frame_and_no_curve_at_all() -> None:
    recording = drifting(frames=1, curves={}, masks=None)
    assert len(frames_of(recording)) == 1
    alone, with_chart = (frames_of(recording, shares=shares)[0] for shares in ((), None))
    assert alone.shape[1] < with_chart.shape[1]


def test_without_loss_the_other_chart_has_the_height_of_both() -> None:
    both, one = (frames_of(drifting(curves=curves)) for curves in (CURVES, {"accuracy": CURVES["accuracy"]}))
    assert [len(film._charts) for film in (both, one)] == [2, 1]
    assert one._charts[0].size[1] > 2 * both._charts[0].size[1]
    assert both[0].shape == one[0].shape


def test_an_epoch_is_shown_where_it_is_known() -> None:
    known = frames_of(drifting(frames=2))
    unknown = frames_of(drifting(frames=2, curves={k: c for k, c in drifting(frames=2).curves.items() if k != "epoch"}))
    head = slice(0, known._top - 10), slice(0, 400)
    np.testing.assert_array_equal(known[0][head], unknown[0][head])  # at step 0 there is no epoch yet
    assert not np.array_equal(known[1][head], unknown[1][head])


def test_the_number_follows_its_word_and_the_epoch_stays_where_it_is() -> None:
    film = frames_of(drifting(frames=12, every=10, curves={"epoch": Curve(np.array([0]), np.ones(1))}))
    heads = [film[n][: film._margin + film._font, :400].astype(int) for n in (0, 5, 11)]
    gaps = [np.diff(np.nonzero((head > 80).any(axis=(0, 2)))[0]) for head in heads]
    words = [[round(float(gap)) for gap in some if gap > 4] for some in gaps]
    assert [row[0] for row in words] == pytest.approx([words[0][0]] * 3, abs=2)  # between "step" and its number
    epoch = np.s_[:, film._margin + 150 : 400]
    np.testing.assert_array_equal(heads[0][epoch], heads[2][epoch])


def test_the_title() -> None:
    recording = drifting(frames=1)
    named, same, other = (frames_of(recording, title=t)[0] for t in (None, "cam · blocks", "Where it looks"))
    np.testing.assert_array_equal(named, same)
    assert not np.array_equal(named, other)


def test_maps_in_a_file_are_not_read_before_they_are_needed(tmp_path: Path) -> None:
    recording = drifting(frames=30)
    np.save(tmp_path / "maps.npy", recording.maps)
    mapped = drifting(frames=30, maps=np.load(tmp_path / "maps.npy", mmap_mode="r"))
    np.testing.assert_array_equal(frames_of(mapped, most=3)[1], frames_of(recording, most=3)[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 100}, "width is 100; expected at least 240"),
        ({"most": 0}, "most is 0; expected at least 1"),
        ({"columns": 0}, "columns is 0"),
        ({"shares": ["nothing"]}, "curve 'nothing' is not there"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        frames_of(drifting(), **options)


def test_a_recording_without_frames() -> None:
    empty: Recording = drifting(frames=2).frames([0])
    for name in ("steps", "maps", "probabilities", "best"):
        object.__setattr__(empty, name, getattr(empty, name)[:0])
    with pytest.raises(InputError, match=r"maps of shape \(0, 3, 6, 8\); expected"):
        frames_of(empty)
