from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import equal, fill, recording, without_frames

from camcore.errors import InputError
from camcore.recording.buffer import Curves, RecordingBuffer, Rows


@given(st.lists(st.integers(-9, 9), max_size=40), st.integers(0, 40))
def test_rows_grow_and_are_cut(values: list[int], keep: int) -> None:
    rows = Rows((), np.int64)
    seen = []
    for value in values:
        rows.append(value)
        seen.append(rows.array)
    rows.cut(min(keep, len(values)))
    rows.extend([100, 101])
    assert rows.array.tolist() == [*values[:keep], 100, 101]
    assert [array.tolist() for array in seen] == [values[: n + 1] for n in range(len(values))]


def test_rows_are_read_only() -> None:
    rows = Rows((2,), np.float32)
    rows.append([1, 2])
    with pytest.raises(ValueError, match="read-only"):
        rows.array[0] = 3


def test_curves_keep_what_was_said_last_of_a_step() -> None:
    curves = Curves()
    curves.log(1, {"loss": 1.0})
    curves.log(1, {"loss": 2.0, "rate": 0.1})
    curves.log(3, {"loss": float("nan")})
    read = curves.read()
    assert read["loss"].steps.tolist() == [1, 3]
    assert read["loss"].values.tolist()[0] == 2
    assert np.isnan(read["loss"].values[1])
    curves.cut(0)
    assert curves.read() == {}


def test_buffer_has_what_was_given() -> None:
    whole = recording()
    buffer = RecordingBuffer(without_frames(whole))
    assert (len(buffer), buffer.last) == (0, -1)
    fill(buffer, whole)
    assert (len(buffer), buffer.last) == (4, 30)
    assert equal(buffer.recording, whole)
    buffer.flush(sync=True)


def test_buffer_goes_on_from_a_recording() -> None:
    whole = recording()
    buffer = RecordingBuffer(whole)
    buffer.append(99, whole.maps[0], whole.probabilities[0], whole.best[0])
    assert buffer.recording.steps.tolist() == [0, 10, 20, 30, 99]
    assert equal(buffer.recording.frames([0, 1, 2, 3]), whole)


@pytest.mark.parametrize("step", [-1, 0, 9, 10, 25, 1000])
def test_cut(step: int) -> None:
    whole = recording()
    buffer = RecordingBuffer(whole)
    before = buffer.recording
    buffer.cut(step)
    assert buffer.recording.steps.tolist() == [s for s in (0, 10, 20, 30) if s <= step]
    assert all(c.steps.max() <= step for c in buffer.recording.curves.values())
    fill(buffer, whole, step + 1)
    assert equal(buffer.recording, whole)
    assert equal(before, whole)


@pytest.mark.parametrize(
    ("step", "maps", "text"),
    [
        (30, (3, 5, 6), "a frame of step 30 cannot follow that of step 30"),
        (31, (3, 6, 5), "the maps are (3, 6, 5) and were (3, 5, 6)"),
        (31, (2, 5, 6), "the maps are (2, 5, 6) and were (3, 5, 6)"),
    ],
)
def test_frames_that_do_not_fit(step: int, maps: tuple[int, ...], text: str) -> None:
    whole = recording()
    buffer = RecordingBuffer(whole)
    with pytest.raises(InputError, match=re.escape(text)):
        buffer.append(step, np.zeros(maps), np.zeros(maps[0]), np.zeros(maps[0], int))
    assert equal(buffer.recording, whole)
